"""Step 4, model options: a threshold on the weight.

One feature needs no more.
"""

from services.platform.models.candidates import CandidateRegistry

CANDIDATES = CandidateRegistry(__name__)
