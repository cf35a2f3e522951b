"""Step 4, model options: an encoder with two heads, what it is and where; the KPI decides.

EfficientNet-Lite0 answers first: 3 million weights, made for INT8 on an edge device. ViT-Tiny and
TinyViT see further across a picture and cost several times as much. Why not a detector with boxes?
A scratch is no box, and the line needs one verdict a part; the mask is there for the person who
looks again. Why not anomaly detection on good parts alone? It is the better answer before there are
defects to learn from; a line that keeps its rejects has them.
"""

from services.platform.models.candidates import Candidates

CANDIDATES = Candidates(__name__)
