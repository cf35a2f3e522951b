"""Simulated customers, merchants, fraudsters and payment gateway.

The same seed gives the same bytes.
"""
