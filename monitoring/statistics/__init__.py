"""Drift statistics, one file each."""
