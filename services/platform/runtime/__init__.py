"""Processes and HTTP services: how they start and stop, and the routes all of them have."""
