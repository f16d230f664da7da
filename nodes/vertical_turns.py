"""How a member's part in a vertical run is written: as a program that sends letters and waits for others.

A program is a generator. It yields a `Turn`, what it has for the other members and whose letters it needs next, and is
sent those letters. Role sums are letters too. Who carries them, and when, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from models.role_totals import Totals
from protos.role_sum.member import RoleSum

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """Where a label holder stands.

    Attributes:
        task: What it trains.
        number: Gradient passes done.
        of: Passes in all.
    """

    task: str
    number: int
    of: int


@dataclass(frozen=True)
class Turn:
    """What a program sends, and what it waits for.

    Attributes:
        letters: Recipient -> signed bytes.
        awaits: Members of whom one letter each is due before it goes on.
        progress: What an onlooker may be told.
    """

    letters: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    awaits: Sequence[str] = ()
    progress: Progress | None = None


Program: TypeAlias = Generator[Turn, Mapping[str, bytes], T]
"""A member's part in a run, sent a letter of every member that it awaits; returns a T."""


class RoleSums:
    """The sums of one role in one session: runs a computation of the role, letter by letter.

    Args:
        state: Before the session's first sum.
        rng: Cryptographic randomness.
    """

    def __init__(self, state: RoleSum, rng: Callable[[int], bytes]) -> None:
        self._state = state
        self._rng = rng

    def run(self, computation: Totals[T]) -> Program[T]:
        """Run a computation with the role's other members; alone, without a letter."""
        try:
            asked = next(computation)
            while True:
                if not self._state.peers:
                    asked = computation.send(asked.numbers)
                    continue
                opened, parts = self._state.contribute(asked.purpose, asked.numbers, self._rng)
                letters = yield Turn(parts, self._state.peers)
                self._state, total = opened.total(letters)
                asked = computation.send(total)
        except StopIteration as ended:
            result: T = ended.value
            return result
