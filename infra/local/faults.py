"""Make a process of a stack fail, and bring it back."""

import os
import signal
from enum import StrEnum

from infra.local.supervisor import Supervisor


class Kind(StrEnum):
    """Ways in which a process can fail; `slow` is for engines (`infra.local.bad_link`)."""

    kill = "kill"
    hang = "hang"
    away = "away"
    slow = "slow"


def strike(supervisor: Supervisor, name: str, kind: Kind) -> None:
    """Kill a process, stop it where it is, or take it away.

    Raises:
        KeyError: no such process runs; the message lists those that do.
    """
    pids = supervisor.pids()
    if name not in pids:
        raise KeyError(f"no process {name!r} runs: {', '.join(pids) or '`whiteboard up`'}")
    if kind is Kind.away:
        supervisor.take_away(name)
    else:
        os.kill(pids[name], signal.SIGKILL if kind is Kind.kill else signal.SIGSTOP)


def mend(supervisor: Supervisor, name: str, kind: Kind) -> None:
    """Bring a process back; Supervisor itself restarts one that was killed."""
    if kind is Kind.away:
        supervisor.bring_back(name)
    elif kind is Kind.hang:
        os.kill(supervisor.pids()[name], signal.SIGCONT)
