"""Step 6, monitoring: drift of scores and of the pictures themselves; verdicts when they come.

A lens that slips out of focus makes the model blind and sure of itself: its scores alone may not
move. So the pictures' own figures (brightness, contrast, sharpness, clipping) are watched beside
the score, and the inspector itself sends what shows too little to a person. An alarm names the
station that moved most from its own past. Verdicts then tell what escaped. Why not watch
embeddings? They see more and explain nothing; "sharpness drifted, most at line-b/station-2" is what
somebody can act on.

The process is `monitor.py`; shadow mode is `shadow.py`.
"""
