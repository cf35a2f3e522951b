"""Step 5, serving: one route.

A belt waits for the answer.
"""
