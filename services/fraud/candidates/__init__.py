"""Step 4, model options: one file per candidate, each exporting one ONNX graph.

XGBoost is the default: it scores a row of tabular features in microseconds, and its threshold is
easy to explain. It sees neither the items of a cart nor which customers share merchants and
devices; DeepSets and the graph candidates do.
"""

from services.platform.models.candidates import CandidateRegistry

CANDIDATES = CandidateRegistry(__name__)
