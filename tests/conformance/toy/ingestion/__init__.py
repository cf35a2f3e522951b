"""Step 2, data ingestion: the scales publish each parcel.

One stream holds the decisions, each with the weight that it was made by.
"""

DECISIONS_STREAM, DECISION = "TOY_DECISIONS", "toy.decision"
