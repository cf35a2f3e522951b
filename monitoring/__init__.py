"""Monitors: one statistic a file, a reference to hold windows to, and how good the monitors are."""
