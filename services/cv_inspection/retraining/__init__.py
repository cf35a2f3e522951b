"""Step 7, retraining: the operator's verdicts train the champion on, and only through the gate.

A verdict comes minutes after the picture, not weeks, so the night trains on the day. What it was
trained on before comes along, or it would forget what a rare defect looks like; the newest fifth of
the verdicts is nobody's to train on, and the gate judges by it, whole lots at a time. Why not have
the model label its own pictures? It would agree with itself, escapes included.
"""
