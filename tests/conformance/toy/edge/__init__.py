"""Step 8, edge: the limit fits a scale's own processor.

Nothing has to leave the belt.
"""
