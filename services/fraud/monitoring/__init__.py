"""Step 6, monitoring: whether what the model saw online is what training would compute.

The skew audit answers exactly: every logged decision carries its feature vector and the sequence
of every row it read. The audit folds the raw events of the lake anew up to that sequence, reads
the features again and demands the same bytes. Comparing distributions instead would need many
decisions to see a small error and could never say which one was wrong.

Drift is another question, whether payments are still like those of training: the monitor
(`drift.py`) compares each day with the training days by KS, PSI and missing values, and corrects
for how many columns there are. Shadow mode is `shadow.py`.
"""
