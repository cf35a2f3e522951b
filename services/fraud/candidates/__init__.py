"""Step 4, model options: a file a candidate, each exporting one ONNX graph.

XGBoost is the default: tabular features, a single row, microseconds, and a threshold anyone can
explain. What it cannot see is the inside of a cart, and who else shops where.
"""

from services.platform.models.candidates import Candidates

CANDIDATES = Candidates(__name__)
