"""Step 4, model options: an encoder with two heads, one for the class and one for the mask.

The cost model decides between them. EfficientNet-Lite0 is the first: 3 million weights, made for
INT8 on an edge device. ViT-Tiny and TinyViT relate distant parts of an image and cost several times
as much. Why not a detector with boxes? A scratch does not fill a box, and the line needs one
decision a part; the mask is there for the person who reviews it. Why not anomaly detection on good
parts alone? It is the better answer before there are defects to learn from; a line that keeps its
rejects has them.
"""

from services.platform.models.candidates import CandidateRegistry

CANDIDATES = CandidateRegistry(__name__)
