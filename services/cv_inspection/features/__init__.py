"""Step 3, feature groups: the pixels, and what the picture itself is like.

The network is given the pixels at its own size, scaled by one function here for training, serving
and the edge. Beside them go four figures of the picture, for people and monitors rather than for
the model: brightness, contrast, sharpness, and how much of it is clipped. A lens out of focus
shows in them at once, long before verdicts tell that defects escape. Why not hand-made texture
features? They were the state of the art until networks learned better ones from the same pixels.
"""
