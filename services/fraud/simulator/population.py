"""The population: customers, merchants, devices and addresses, drawn once from the seed."""

from dataclasses import dataclass

import numpy as np

from services.platform.types import Floats, Integers

CUSTOMERS = 5_000
MERCHANTS = 1_000
FAVOURITES = 12
DEVICES_PER_CUSTOMER = 3

# Categories of goods. A shop's carts hold only what it sells. Resale goods turn into cash quickly:
# one of them in a cart is ordinary, several different ones are not.
CATEGORIES = (
    "bread", "dairy", "fruit", "meat", "drinks", "household", "snacks",
    "shirt", "shoes", "coat", "underwear", "bag",
    "phone", "headphones", "cable", "console", "camera",
    "fuel", "parking", "train_ticket", "flight", "hotel",
    "meal", "coffee", "dessert",
    "book", "toy", "garden", "tool", "furniture",
    "perfume", "cosmetics", "medicine",
    "streaming", "game", "gift_card",
)  # fmt: skip
RESALE = ("phone", "headphones", "console", "camera", "perfume", "gift_card", "shoes", "bag")
CODE = {name: code for code, name in enumerate(CATEGORIES)}

# kind of shop -> (share of shops, median amount in minor units, mean items, what it sells)
SHOPS: dict[str, tuple[float, int, float, tuple[str, ...]]] = {
    "grocery": (0.22, 3200, 5.0, CATEGORIES[0:7]),
    "fashion": (0.14, 6500, 2.2, (*CATEGORIES[7:12], "perfume", "gift_card")),
    "electronics": (0.10, 11000, 1.7, (*CATEGORIES[12:17], "game", "gift_card")),
    "travel": (0.08, 7500, 1.4, CATEGORIES[17:22]),
    "restaurant": (0.18, 2400, 2.6, CATEGORIES[22:25]),
    "home": (0.10, 5200, 2.4, CATEGORIES[25:30]),
    "beauty": (0.08, 3600, 2.2, (*CATEGORIES[30:33], "gift_card")),
    "digital": (0.10, 1500, 1.2, (*CATEGORIES[33:36], "headphones")),
}


def generator(seed: int, *path: int) -> np.random.Generator:
    """A separate random generator for each path, e.g. (seed, purpose, day).

    Each day draws from its own generator, so any day can be simulated without the days before it.

    Examples:
        >>> bool(generator(7, 1, 3).random() == generator(7, 1, 3).random())
        True
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *path])))


@dataclass(frozen=True)
class Population:
    """Customers and merchants of one seed.

    Attributes:
        seed: The seed.
        weight: (C,) a customer's share of all transactions; sums to 1.
        spending: (C,) log of a customer's spending relative to the shop's median.
        hour_shift: (C,) hours by which the customer's day is shifted.
        favourites: (C, FAVOURITES) merchants a customer returns to, most visited first.
        devices: (C, DEVICES_PER_CUSTOMER) devices, the usual one first; households share some.
        home_ip: (C,) home address as a 32-bit number; households share it.
        kind: (M,) index into `SHOPS`.
        popularity: (M,) a merchant's share of visits outside favourites; sums to 1.
    """

    seed: int
    weight: Floats
    spending: Floats
    hour_shift: Floats
    favourites: Integers
    devices: Integers
    home_ip: Integers
    kind: Integers
    popularity: Floats

    @classmethod
    def draw(cls, seed: int) -> "Population":
        """Draw the population of a seed."""
        rng = generator(seed, 0)
        weight = rng.lognormal(0.0, 0.7, CUSTOMERS)
        popularity = rng.pareto(1.3, MERCHANTS) + 0.2
        popularity /= popularity.sum()
        kind = rng.choice(len(SHOPS), MERCHANTS, p=[share for share, *_ in SHOPS.values()])
        devices = np.arange(CUSTOMERS * DEVICES_PER_CUSTOMER).reshape(
            CUSTOMERS, DEVICES_PER_CUSTOMER
        )
        home_ip = 0x0A000000 + rng.permutation(1 << 20)[:CUSTOMERS].astype(np.int64)
        shares_home = np.nonzero(rng.random(CUSTOMERS - 1) < 0.15)[0] + 1
        devices[shares_home, 1] = devices[shares_home - 1, 0]
        home_ip[shares_home] = home_ip[shares_home - 1]
        return cls(
            seed=seed,
            weight=weight / weight.sum(),
            spending=rng.normal(0.0, 0.45, CUSTOMERS),
            hour_shift=rng.normal(0.0, 1.5, CUSTOMERS),
            favourites=rng.choice(MERCHANTS, (CUSTOMERS, FAVOURITES), p=popularity),
            devices=devices,
            home_ip=home_ip,
            kind=kind.astype(np.int64),
            popularity=popularity,
        )
