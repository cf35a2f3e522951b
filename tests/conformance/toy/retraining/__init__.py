"""Step 7, retraining: the limit is learnt anew from parcels that broke a belt.

A belt that wears out bears less.
"""
