"""Comparisons, published protocols, the drift benchmark, run reports and the drill."""
