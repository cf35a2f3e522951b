"""Load tests: Locust scenarios for both designs, and benchmarks of `/score` and its engines."""
