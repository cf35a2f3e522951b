"""Comparisons, published protocols, the drift benchmark and run reports."""
