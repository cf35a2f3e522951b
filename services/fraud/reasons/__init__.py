"""Reasons: why a transaction was declined or sent to review, in words, from the logged vector.

A process off the hot path reads the decision events and explains each decline and review with the
file of the very version that decided. What a version needs to explain itself rides in its ONNX
file (`services/platform/models/attachments.py`): what is usual, and for trees the forest's paths.
So neither the training libraries nor the registry are needed, and `/score?reasons=true` can do the
same within a request.

Trees: exact TreeSHAP (`forest.py`). Networks: exact Shapley values of the feature groups against
what is usual (`shapley.py`); the items of a cart one left out at a time (`cart.py`); the nearest
charged-back party in the graph (`parties.py`).
"""
