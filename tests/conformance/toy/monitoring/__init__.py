"""Step 6, monitoring: shadow mode.

A challenger scores the logged weights before it decides on any parcel.
"""
