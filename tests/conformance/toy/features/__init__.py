"""Step 3, feature groups: the weight.

It is all that a scale knows.
"""

FEATURES = ("weight",)
