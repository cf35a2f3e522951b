"""`whiteboard retrain`."""

from services.cli.lifecycle import challenge, shadow_traffic
from services.cli.options import (
    PATIENCE_S,
    DesignArgument,
    JsonOption,
    PatienceOption,
    SeedOption,
    TrafficOption,
)
from services.cli.output import bar
from services.platform.settings import settings


def retrain(
    design: DesignArgument,
    traffic: TrafficOption = 0,
    patience: PatienceOption = PATIENCE_S,
    seed: SeedOption = 7,
    as_json: JsonOption = False,
) -> None:
    """Train the champion further on labels that are new, and let the gate decide.

    Examples:
      whiteboard retrain fraud --traffic 200
    """
    from services.platform.retraining import challenge as retraining

    source = shadow_traffic(design, patience, traffic, seed)
    challenge(design, lambda spec: retraining.retrain(spec, settings(), seed, bar, source), as_json)
