"""Step 3, feature groups: the pixels, and four measures of image quality.

The network gets the pixels at its own size, resized by one function for training, serving and the
edge. Beside them there are four measures for people and monitors, not for the model: brightness,
contrast, sharpness, and the share of clipped pixels. A lens out of focus shows in them at once,
long before labels show that defects escape. Why not hand-made texture features? They were the state
of the art until networks learned better ones from the same pixels.
"""
