"""Cost, metrics, and the comparison of candidates."""
