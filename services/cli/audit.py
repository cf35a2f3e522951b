"""`whiteboard audit`."""

from dataclasses import asdict

from services.cli.options import DesignArgument, JsonOption, errors_as_messages, hook
from services.cli.output import err, fail, out, show_json
from services.platform.settings import settings


def audit(design: DesignArgument, as_json: JsonOption = False) -> None:
    """Recompute every logged decision's features from the raw events and compare bytes.

    Exits with 1 on a mismatch.

    Examples:
      whiteboard audit fraud
      whiteboard audit fraud --json
    """
    run = hook(design.audit, design, "audit")
    with errors_as_messages(), err.status("recomputing features from the lake's events"):
        found = run(settings())
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
        for message in found.ahead:
            out.print(f"  [yellow]{message}[/]", highlight=False)
    if found.mismatches:
        fail("served features differ from those recomputed from the events")
