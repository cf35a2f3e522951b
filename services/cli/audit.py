"""`whiteboard audit`."""

from dataclasses import asdict

from services.cli.designs import DesignArgument, fraud_alone
from services.cli.output import JsonOption, err, fail, out, show_json
from services.platform.settings import settings


def audit(design: DesignArgument, as_json: JsonOption = False) -> None:
    """Recompute every logged decision's features from the raw events and compare bytes.

    Exits with 1 on a mismatch.

    Examples:
      whiteboard audit fraud
      whiteboard audit fraud --json
    """
    fraud_alone(design, "a picture's features are its pixels: nothing is stored that could differ")
    from services.fraud.monitoring.skew import audit as run
    from services.platform.storage.lake import Lake

    try:
        with err.status("folding the events of the lake anew"):
            found = run(Lake(settings()))
    except OSError as error:
        fail(f"{error}: is the stack up? `whiteboard up`")
    if as_json:
        show_json(asdict(found))
    else:
        out.print(
            f"{found.vectors:,} vectors, {found.mismatches} mismatches; "
            f"{found.events:,} events, {found.gaps} gaps in their sequence",
            highlight=False,
        )
        for example in found.examples:
            out.print(f"  {example.transaction_id}: {example.reason} {list(example.features)}")
    if found.mismatches:
        fail("what was served is not what the events give")
