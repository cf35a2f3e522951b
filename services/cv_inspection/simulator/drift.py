"""How the world may change on purpose: the lens, the light, or a defect nobody has seen."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Drift:
    """Strengths in 0..1, all 0 for the world as it was trained on.

    Attributes:
        blur: The lens goes out of focus. exposure: The light fails.
        new_defect: Share of defects that are dents, of which there were none before.
        at: The one station it happens at, "<line>/<station>"; empty for all of them.
    """

    blur: float = 0.0
    exposure: float = 0.0
    new_defect: float = 0.0
    at: str = ""

    @classmethod
    def parse(cls, text: str) -> "Drift":
        """Read `blur=0.5,exposure=1`, or `blur=1@line-b/station-2`; `none` is none.

        Raises:
            ValueError: it says what is wrong.
        """
        if text == "none":
            return cls()
        known = [field.name for field in fields(cls) if field.type is float]
        found: dict[str, float] = {}
        strengths, _, at = text.partition("@")
        for part in strengths.split(","):
            name, _, value = part.partition("=")
            if name not in known:
                raise ValueError(f"no drift {name!r}: choose from {', '.join(known)}")
            try:
                found[name] = float(value)
            except ValueError:
                raise ValueError(f"{name}: {value!r} is no number") from None
            if not 0.0 <= found[name] <= 1.0:
                raise ValueError(f"{name}: {value} does not lie in 0..1")
        return cls(**found, at=at)
