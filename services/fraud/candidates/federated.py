"""Federated: the network that several banks train together, without a row leaving its bank.

`whiteboard federate fraud` trains and registers it (step 8, `services/fraud/privacy`). Trained
here, it is what one bank alone would have. Tabular features only: an update to the graph's or the
cart's embeddings would tell which merchants and goods a bank sees.
"""

import numpy as np
from torch import Tensor, nn

from services.fraud.candidates import CANDIDATES
from services.platform.torch.tabular import TabularNetwork
from services.platform.torch.training import NeuralCandidate
from services.platform.types import Floats32


@CANDIDATES.register
class Federated(NeuralCandidate):
    """A small network over the tabular features."""

    name = "federated"
    role = "trained by banks that share no row"

    def network(self, sample: Tensor) -> nn.Module:
        """The untrained network; `sample` (S, F) sets the mean and spread of each column."""
        return TabularNetwork(sample, int(self.parameters["hidden"]))

    def weights(self) -> Floats32:
        """The weights that the banks average, in one row (W,)."""
        return np.concatenate([p.detach().numpy().ravel() for p in self._net.parameters()])
