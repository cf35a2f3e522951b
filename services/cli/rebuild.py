"""`whiteboard rebuild`."""

from dataclasses import asdict

from services.cli.options import DesignArgument, JsonOption, errors_as_messages, only_with
from services.cli.output import bar, say, show_json
from services.platform.settings import settings


def rebuild(design: DesignArgument, as_json: JsonOption = False) -> None:
    """Rebuild the online store and the state log from the lake, while the stack runs.

    Needed after a change of the declared states, and when Redis was lost.

    Examples:
      whiteboard rebuild fraud
      whiteboard rebuild fraud --json
    """
    only_with(design, "rebuild")
    from services.fraud.features.rebuild import rebuild as run

    with errors_as_messages():
        found = run(settings(), bar)
    if as_json:
        show_json(asdict(found))
    else:
        entities = ", ".join(f"{count:,} in {name}" for name, count in found.entities.items())
        say(
            f"{found.events:,} events in {found.seconds:.0f} s, set {found.feature_set}: {entities}"
        )
