"""What experiment 6 claims, as data: the founding document's grades and expectations, and its own."""

CRITERIA = ()
