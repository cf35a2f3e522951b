"""What both designs share: the eight steps as contracts, the engines, and the plumbing between.

Nothing here names a design.
"""
