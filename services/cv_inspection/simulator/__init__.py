"""The camera of a line: procedural surfaces, defects with pixel-true masks, light and lens.

Simulated; real images come by `whiteboard train cv --data FOLDER`.
"""
