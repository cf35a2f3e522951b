"""Step 7, retraining: the champion is trained further on operators' labels, then the gate decides.

A label arrives minutes after its image, so each night trains on the day's labels: those of stopped
parts, of a random share of passed ones, and of earlier parts that customers sent back. Images
from earlier training are added, or the model would forget rare defects. The newest fifth of the
labels is held out for the gate, which resamples whole lots. Why not let the model label its own
images? It would agree with itself, escapes included.
"""
