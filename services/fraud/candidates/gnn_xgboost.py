"""GNN and XGBoost: the trees over the tabular features and the places in the graph.

The same file, the same speed as the trees alone, and what the graph knows: this is how NVIDIA's
blueprint for fraud detection combines the two.
"""

from services.fraud.candidates import CANDIDATES
from services.fraud.candidates.xgboost import XGBoost


@CANDIDATES.register
class GraphXGBoost(XGBoost):
    """XGBoost with more columns."""

    name = "gnn_xgboost"
    role = "trees that see the graph"
    groups = ("graph",)
