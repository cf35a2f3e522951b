"""Train the fallback of a model: what decides while the online store is away."""

import logging

from services.fraud.candidates.fallback import Fallback, lose_rows
from services.fraud.features.states import FEATURE_SET, SETS, TABULAR
from services.fraud.model import FALLBACK
from services.fraud.problem import CONF, DESIGN, CostModel
from services.fraud.reasons.explainer import ATTACHMENT, explanation_file
from services.fraud.retraining.dataset import TrainingData
from services.platform.evaluation.metrics import calibration_error
from services.platform.models.attachments import attach, attachment
from services.platform.models.candidates import Examples
from services.platform.models.names import version_path
from services.platform.models.onnx import ModelCard, open_session, write_card
from services.platform.progress import ProgressBar
from services.platform.retraining.training import hyperparameters, new_card
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.types import Floats32

log = logging.getLogger(__name__)


def train_fallback(
    data: TrainingData, features: tuple[str, ...], seed: int, bar: ProgressBar
) -> dict[str, bytes]:
    """The attachment with a fallback trained on a model's own examples; empty without carts.

    Args:
        data: What the model was trained and validated on.
        features: (F,) names of its columns.
        seed: Of the training, and of the rows that are lost.
        bar: Opens a progress bar with a title.
    """
    if data.carts is None:
        return {}
    names = tuple(name for name in TABULAR if name in features)
    columns = [features.index(name) for name in names]
    train, valid = (
        _part(part, columns, items)
        for part, items in zip((data.train, data.validation), data.carts, strict=True)
    )
    made = Fallback(hyperparameters(CONF, Fallback.name), names)
    with bar("training the fallback") as step:
        made.fit(train, valid, seed, step)
    lost = Examples(
        lose_rows(valid.vectors, names, seed + 2),
        valid.positive,
        valid.amount,
        valid.sets,
        valid.weight,
    )
    score = made.score(lost)
    error = calibration_error(score, valid.positive, weight=valid.weight)
    log.info("fallback: expected calibration error %.4f", error)
    card = new_card(
        made,
        CostModel().best_threshold(score, valid.positive, valid.amount, valid.weight),
        data.fingerprint,
        data.until,
        design=DESIGN,
        feature_set=FEATURE_SET.hash,
        sets={"items": SETS["items"]},
        kpi={"review_minor": CostModel().opex},
        calibration_error=error,
    )
    explained = attach(made.export(), {ATTACHMENT: explanation_file(made, train)})
    return {FALLBACK: write_card(explained, card)}


def kept_fallback(settings: Settings, card: ModelCard) -> dict[str, bytes]:
    """The attachment with a registered model's own fallback; empty if it has none.

    A night's new labels are too few to train a fallback on: the champion's stays.
    """
    data = Lake(settings).get(version_path(DESIGN, card.version))
    metadata = open_session(data, optimised=False).get_modelmeta().custom_metadata_map
    found = attachment(metadata, FALLBACK)
    return {} if found is None else {FALLBACK: found}


def _part(examples: Examples, columns: list[int], items: Floats32) -> Examples:
    first = list(range(len(columns)))
    # A slice where it can be one, which copies nothing.
    vectors = examples.vectors[:, slice(len(columns)) if columns == first else columns]
    sets = {"items": items}
    return Examples(vectors, examples.positive, examples.amount, sets, examples.weight)
