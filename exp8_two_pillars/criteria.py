"""What experiment 8 claims, as data."""

CRITERIA = ()
