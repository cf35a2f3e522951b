"""Candidate comparison, published protocols, drift benchmark, run report and retraining drill."""
