"""Simulated camera of a line: procedural surfaces, defects with exact masks, light and lens.

Real images are trained on with `whiteboard train cv --data FOLDER`.
"""
