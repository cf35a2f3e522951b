"""Switches that make the world change, so that what watches it can be tested."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Drift:
    """How strongly the world has changed, from `day` on; each strength is in 0..1.

    Attributes:
        covariate: Customers change: amounts grow by up to half and shopping moves into the night.
        concept: Fraudsters change: stolen cards are used for small amounts at the victim's own
            shops, and twice as often, so what was learnt of them no longer holds.
        holiday: A season of gifts: more transactions, larger ones. Ordinary, and not fraud.
        null_device: Share of transactions that arrive without a device, as from a broken client.
    """

    covariate: float = 0.0
    concept: float = 0.0
    holiday: float = 0.0
    null_device: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"drift {field.name}={value}: a strength lies in 0..1")

    @classmethod
    def parse(cls, text: str) -> "Drift":
        """Read "covariate=0.5,null_device=1", or "none". ValueError names what it does not know."""
        known = [f.name for f in fields(cls)]
        strengths = {}
        if text == "none":
            return cls()
        for part in filter(None, text.split(",")):
            name, _, value = part.partition("=")
            if name not in known:
                raise ValueError(f"no drift called {name!r}: choose from {', '.join(known)}")
            strengths[name] = float(value or 1.0)
        return cls(**strengths)


# Drifts, each with the moment (microseconds since the epoch) from which it holds, in order.
Schedule = tuple[tuple[int, Drift], ...]
