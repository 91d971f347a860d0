"""Tests run on both cores, a process each (pytest-xdist), so each of them computes in one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
