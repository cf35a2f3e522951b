"""GNN and XGBoost: trees over the tabular features and the graph embeddings.

Serving is as for the trees alone, with more columns. NVIDIA's fraud detection blueprint combines
the two in this way.
"""

from services.fraud.candidates import CANDIDATES
from services.fraud.candidates.xgboost import XGBoost


@CANDIDATES.register
class GraphXGBoost(XGBoost):
    """XGBoost with the graph embeddings as further columns."""

    name = "gnn_xgboost"
    role = "trees that see the graph"
    groups = ("graph",)
