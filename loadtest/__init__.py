"""Load: Locust scenarios for both designs, and the bench that puts `/score` beside the floor."""
