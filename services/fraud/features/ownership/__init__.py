"""Who owns a row of the online store, and how rows change hands.

A row has one writer at a time: `assignment` tells which worker that is, `row_owner` is what a
worker knows of its rows, and `handover` offers rebuilt rows and records which are complete.
"""
