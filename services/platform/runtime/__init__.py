"""Processes and HTTP services: how they start, what they all answer, how they stop."""
