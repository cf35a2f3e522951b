"""The feature store: accumulators, their Feast definitions, and the two hot paths around Redis."""
