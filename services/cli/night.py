"""`whiteboard night`."""

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


def night(
    design: DesignArgument,
    traffic: TrafficOption = 0,
    patience: PatienceOption = PATIENCE_S,
    seed: SeedOption = 7,
    as_json: JsonOption = False,
) -> None:
    """Run the nightly retraining, as the scheduler does; fraud refreshes its embeddings first.

    Examples:
      whiteboard night fraud --traffic 200
    """
    from services.platform.retraining import challenge as retraining

    source = shadow_traffic(design, patience, traffic, seed)
    challenge(
        design,
        lambda spec: retraining.nightly_retraining(spec, settings(), seed, bar, source),
        as_json,
    )
