"""The cost model, metrics, and the comparison of candidates."""
