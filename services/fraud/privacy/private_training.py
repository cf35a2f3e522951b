"""A bank's round with differential privacy for its customers.

DP-SGD whose unit is the customer: each step samples customers, clips the gradient of each one's
rows together, and adds noise inside the bank, so that the update says little about any one of them.

Sources: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016; McMahan et al.,
"Learning Differentially Private Recurrent Language Models", ICLR 2018.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.accountants import RDPAccountant
from opacus.accountants.utils import get_noise_multiplier
from opacus.optimizers import DPOptimizer
from torch import nn

from services.fraud.privacy.local_training import tensors
from services.fraud.privacy.rows import Rows
from services.platform.torch.tabular import TabularNetwork
from services.platform.types import Integers

DELTA = 1e-5
# Rows of one customer in one step.
_ROWS_OF_CUSTOMER = 32


class PrivacyBudget:
    """The noise that keeps a target epsilon over all rounds, and what was spent so far.

    Attributes:
        noise: Noise multiplier, in units of the clipping norm.
    """

    def __init__(self, epsilon: float, sample_rate: float, steps: int, rounds: int) -> None:
        """Find the noise.

        Args:
            epsilon: To keep to, at `DELTA`.
            sample_rate: Share of customers in a step.
            steps: Steps of a round.
            rounds: Rounds in all.
        """
        self._sample_rate, self._steps = sample_rate, steps
        self.noise: float = get_noise_multiplier(
            target_epsilon=epsilon, target_delta=DELTA, sample_rate=sample_rate,
            steps=steps * rounds, accountant="rdp",
        )  # fmt: skip

    def spent(self, rounds: int) -> float:
        """Epsilon after some rounds, at `DELTA`, by Renyi accounting."""
        accountant = RDPAccountant()
        accountant.history = [(self.noise, self._sample_rate, self._steps * rounds)]
        return float(accountant.get_epsilon(DELTA))


class _Optimizer(DPOptimizer):
    """Draws its noise from `rng`: torch's generator takes 32 bits of a seed, which can be tried."""

    def __init__(self, rng: np.random.Generator, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._rng = rng

    def add_noise(self) -> None:
        """Set each gradient to the clipped sum with Gaussian noise."""
        std = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noise = torch.from_numpy(self._rng.normal(0.0, std, parameter.summed_grad.shape))
            noised = parameter.summed_grad + noise.to(parameter.summed_grad.dtype)
            parameter.grad = noised.view_as(parameter)


def train_privately(
    net: TabularNetwork,
    rows: Rows,
    config: Mapping[str, Any],
    noise: float,
    rng: np.random.Generator,
) -> None:
    """Train for `steps` steps of DP-SGD, in which the unit that is clipped is a customer.

    Args:
        config: `sample-rate` of customers a step, `steps`, `clip` (norm of the gradient of one
            customer's rows) and `private-rate`.
        noise: Noise multiplier.
        rng: Draws noise and customers. Its seed must not leave the bank.
    """
    torch.manual_seed(int(rng.integers(2**32)))
    normalised, target = tensors(net, rows)
    customers, sample_rate = _rows_by_customer(rows), float(config["sample-rate"])
    head = GradSampleModule(net.together, loss_reduction="sum")
    optimizer = _Optimizer(
        rng, torch.optim.Adam(head.parameters(), lr=float(config["private-rate"])),
        noise_multiplier=noise, max_grad_norm=float(config["clip"]),
        expected_batch_size=sample_rate * len(customers), loss_reduction="sum",
    )  # fmt: skip
    head.train()  # Opacus records the gradients of examples in this mode alone; dropout is on
    for _ in range(int(config["steps"])):
        sampled = np.nonzero(rng.random(len(customers)) < sample_rate)[0]
        if not len(sampled):
            continue
        chosen = torch.from_numpy(np.stack([_pick(customers[c], rows, rng) for c in sampled]))
        # (B, rows, 2 F): Opacus clips along the first axis, which is the customer.
        logits = head(normalised[chosen]).squeeze(2)
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, target[chosen], reduction="none"
        )
        optimizer.zero_grad()
        loss.mean(dim=1).sum().backward()
        optimizer.step()
    head.remove_hooks()
    net.together.eval()


def _rows_by_customer(rows: Rows) -> list[Integers]:
    """The indices of each customer's rows."""
    order = np.argsort(rows.customer, kind="stable")
    ends = np.nonzero(np.diff(rows.customer[order]))[0] + 1
    return np.split(order, ends)


def _pick(own: Integers, rows: Rows, rng: np.random.Generator) -> Integers:
    """`_ROWS_OF_CUSTOMER` of a customer's rows, frauds first for up to half of them.

    The choice may depend on the customer's rows, since all of them are clipped together. Without
    it AP at epsilon 8 was .02, with it .19: one row in a hundred is a fraud.
    """
    frauds = own[rows.fraud[own]]
    kept = rng.permutation(frauds)[: _ROWS_OF_CUSTOMER // 2]
    return np.concatenate([kept, rng.choice(own, _ROWS_OF_CUSTOMER - len(kept))])
