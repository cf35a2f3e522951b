"""Drift of the simulated camera: the lens, the light, or a new kind of defect."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class CameraDrift:
    """Strengths in 0..1; 0 is the distribution that models are trained on.

    Attributes:
        blur: The lens goes out of focus.
        exposure: The light fails.
        new_defect: Share of the defects that are dents, which no model was trained on.
        at: The one station that drifts, "<line>/<station>"; empty for all of them.
    """

    blur: float = 0.0
    exposure: float = 0.0
    new_defect: float = 0.0
    at: str = ""

    @classmethod
    def parse(cls, text: str) -> "CameraDrift":
        """Parse `blur=0.5,exposure=1`, or `blur=1@line-b/station-2`; `none` is no drift.

        >>> CameraDrift.parse("blur=0.5@line-b/station-2")
        CameraDrift(blur=0.5, exposure=0.0, new_defect=0.0, at='line-b/station-2')

        Raises:
            ValueError: the message says what is wrong.
        """
        if text == "none":
            return cls()
        known = [field.name for field in fields(cls) if field.type is float]
        parsed: dict[str, float] = {}
        strengths, _, at = text.partition("@")
        for part in strengths.split(","):
            name, _, value = part.partition("=")
            if name not in known:
                raise ValueError(f"unknown drift {name!r}: choose from {', '.join(known)}")
            try:
                parsed[name] = float(value)
            except ValueError:
                raise ValueError(f"{name}: {value!r} is not a number") from None
            if not 0.0 <= parsed[name] <= 1.0:
                raise ValueError(f"{name}: {value} is not in 0..1")
        return cls(**parsed, at=at)
