"""Step 6, monitoring: drift of scores and image quality, and cost once labels arrive.

With a lens out of focus, the model misses defects and stays confident: its scores alone may not
move. So the quality of the images (brightness, contrast, sharpness, clipping) is monitored beside
the score, and the inspector sends images that show too little to a person. An alert names the
station that moved most from its own past. Labels then show what escaped. Why not monitor
embeddings? They detect more and explain nothing; "sharpness drifted, most at line-b/station-2" is
an alert that a person can act on.

The monitor is `drift.py`, its quality and cost are `quality.py`; shadow mode is `shadow.py`.
"""
