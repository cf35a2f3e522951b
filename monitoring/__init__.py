"""Drift and quality monitoring, shared by the designs; drift statistics are a file each."""
