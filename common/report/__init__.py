"""Reports over results: HTML, numbers in documents, seeds of several runs pooled."""
