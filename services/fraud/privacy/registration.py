"""The banks' network enters the registry of one of them, as a challenger like any other."""

import logging
from pathlib import Path

from services.fraud.candidates.federated import Federated
from services.fraud.retraining import training
from services.fraud.retraining.dataset import training_data
from services.fraud.retraining.fallback import train_fallback
from services.platform.models.registry import RegisteredModel
from services.platform.progress import ProgressBar
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

logger = logging.getLogger(__name__)


def register(settings: Settings, folder: Path, seed: int, bar: ProgressBar) -> RegisteredModel:
    """Register a network that the banks trained.

    The bank that serves it chooses the threshold and the drift reference on its own lake.

    Args:
        settings: Where lake and registry are.
        folder: With the network's weights.
        seed: Of its training, for the record.
        bar: Opens a progress bar with a title.

    Raises:
        OSError: the store does not answer.
        NotEnoughData: too few labelled days in the lake.
    """
    candidate = training.new_candidate(Federated.name)
    candidate.load(folder)
    data = training_data(settings, Lake(settings), Federated, seed, bar)
    reference = training.reference_of(candidate, data)
    parameters = {"seed": seed, "federated": True}
    fallback = train_fallback(data, candidate.features, seed, bar)
    return training.register(settings, candidate, data, reference, 0.0, parameters, fallback)
