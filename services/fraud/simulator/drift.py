"""Drift that can be injected into the simulation, to test the monitors."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Drift:
    """Strength of each kind of drift, 0..1.

    Attributes:
        covariate: Customers change: amounts grow by up to half and shopping moves into the night.
        concept: Fraudsters change: stolen cards are used for small amounts at the victim's own
            shops, and twice as often, so that learnt patterns no longer hold.
        holiday: A gift season: more and larger transactions, without more fraud.
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
        """Read a drift from text, "none" for no drift.

        Raises:
            ValueError: an unknown name, or a strength outside 0..1.

        Examples:
            >>> Drift.parse("covariate=0.5,null_device")
            Drift(covariate=0.5, concept=0.0, holiday=0.0, null_device=1.0)
        """
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


# Drifts in order, each with the time (microseconds since the epoch) from which it holds.
Schedule = tuple[tuple[int, Drift], ...]
