"""The feature store: accumulators, their Feast definitions, a fast Redis reader and writer."""
