"""What a sealed sum costs: the real protocol functions of all parties, end to end in one process.

Bytes are everything a node uploads for one sum; processor time is split by who spends it. Every row also says
whether the opened integers equal the true sum.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from protos.sealed_sum.aggregator import Collecting, RevealingSeeds, RevealingShares
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.dealing import Ready, accept_deal, deal, dealer_order, ready
from protos.sealed_sum.epoch import EpochView, announce, join, observe
from protos.sealed_sum.header import FIRST, NO_MODEL, InputClass, SumHeader, chain
from protos.sealed_sum.keys import SigningKey
from protos.sealed_sum.layout import Field, Layout, OpenedSum
from protos.sealed_sum.member import contribute, open_sum, remember, reveal_seeds, reveal_shares
from protos.sealed_sum.memory import EpochMemory
from protos.sealed_sum.parameters import parameters_digest

Rng = Callable[[int], bytes]
Values = Mapping[str, NDArray[np.float64]]
Progress = Callable[[str], None]

AGREEMENT_HASH = hashlib.sha256(b"benchmark agreement").digest()
RUN_ID = "benchmark"
BITS_PER_VALUE = 20


@dataclass
class ProcessorTime:
    """Seconds of processor time, by who spent them."""

    by_role: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, role: str) -> Iterator[None]:
        """Charge the enclosed work to a role."""
        start = time.process_time()
        yield
        self.by_role[role] = self.by_role.get(role, 0.0) + time.process_time() - start


@dataclass
class Consortium:
    """A whole cohort in one process, with the coordinator's public view; keys are real, transport is a call."""

    view: EpochView
    states: dict[str, Ready]
    memories: dict[str, EpochMemory]
    rng: Rng

    @classmethod
    def found(cls, bounds: Bounds, rng: Rng = os.urandom, *, allow_roster_change: bool = False) -> Consortium:
        """Run E1 and E2 among `bounds.cohort` members."""
        names = [f"member-{index:02d}" for index in range(bounds.cohort)]
        identities = {name: SigningKey.from_bytes(rng(32)) for name in names}
        keys = {name: identity.public_bytes for name, identity in identities.items()}
        announced = {name: announce(identities[name], name, AGREEMENT_HASH, RUN_ID, 0, rng) for name in names}
        messages = [message for _, message in announced.values()]
        view = observe(messages, keys, AGREEMENT_HASH, RUN_ID, bounds)
        joined = {name: join(announced[name][0], messages, keys, bounds) for name in names}
        dealer = dealer_order(view.epoch_id, view.cohort)[0]
        dealt = deal(joined[dealer], rng)
        keyed, confirmations = {dealer: dealt.keyed}, [dealt.confirmation]
        for name, message in dealt.messages.items():
            keyed[name], confirmation = accept_deal(joined[name], message, dealer)
            confirmations.append(confirmation)
        states = {name: ready(keyed[name], confirmations) for name in view.cohort}
        memories = {name: remember(state, allow_roster_change=allow_roster_change) for name, state in states.items()}
        return cls(view, states, memories, rng)

    def header(
        self,
        layout: Layout,
        k: int = 0,
        *,
        purpose: str = "benchmark",
        input_class: InputClass = "step",
        model_digest: bytes = NO_MODEL,
        previous: bytes = FIRST,
    ) -> SumHeader:
        """A header that all members agree on."""
        return SumHeader(
            self.view.epoch_id,
            k,
            purpose,
            "credit",
            input_class,
            layout.digest(),
            model_digest,
            parameters_digest(),
            previous,
        )

    def contribute(self, member: str, header: SumHeader, layout: Layout, values: Values) -> bytes:
        """S1 of one member."""
        made = contribute(self.states[member], self.memories[member], header, layout, values, self.rng)
        self.memories[member] = made.memory
        return made.upload

    def reveal_seeds(self, member: str, header: SumHeader, survivors: Sequence[str], dropped: Sequence[str]) -> bytes:
        """S2a of one member."""
        answer = reveal_seeds(self.states[member], self.memories[member], header, survivors, dropped)
        self.memories[member] = answer.memory
        return answer.message

    def reveal_shares(self, member: str, header: SumHeader, step: RevealingShares) -> bytes:
        """S2b of one member."""
        answer = reveal_shares(
            self.states[member],
            self.memories[member],
            header,
            step.survivors,
            step.dropped,
            step.encrypted_shares_for(member),
        )
        self.memories[member] = answer.memory
        return answer.message

    def open(self, member: str, header: SumHeader, layout: Layout, sealed: bytes) -> OpenedSum:
        """S3 of one member."""
        opening = open_sum(self.states[member], self.memories[member], header, layout, sealed)
        self.memories[member] = opening.memory
        return opening.opened

    def reveal(self, header: SumHeader, closed: RevealingSeeds) -> bytes:
        """S2a where needed, and S2b, of all survivors; gives the sealed sum."""
        for member in closed.missing:
            closed = closed.receive(member, self.reveal_seeds(member, header, closed.survivors, closed.dropped))
        step = closed.finalise()
        for member in step.survivors:
            step = step.receive(member, self.reveal_shares(member, header, step))
        return step.finish()

    def seal(
        self, header: SumHeader, layout: Layout, values: Mapping[str, Values], silent: Sequence[str] = ()
    ) -> bytes:
        """S1 to S2 with everybody but the silent; gives the sealed sum."""
        collecting = Collecting.start(self.view, header.k, layout.num_ciphertexts(len(self.view.cohort)))
        for member in self.view.cohort:
            if member not in silent:
                collecting = collecting.receive(member, self.contribute(member, header, layout, values[member]))
        return self.reveal(header, collecting.close())

    def next_header(self, header: SumHeader, layout: Layout, opened: OpenedSum) -> SumHeader:
        """The header after `header`, chained to its opened sum; all members survived."""
        return self.header(layout, header.k + 1, previous=chain(header.digest(), opened, self.view.cohort))


def measure(cohort: int, num_values: int) -> dict[str, float | int | bool]:
    """Cost of one sum of `num_values` values at 20 bits among `cohort` members that all stay.

    Returns:
        A flat row: nodes, values, bytes_per_value (uploaded by one node for the sum), node_cpu_s (one node's
        S1 to S3), coordinator_cpu_s_per_node, exact.
    """
    consortium = Consortium.found(Bounds.smallest(cohort, 1))
    top = float((1 << BITS_PER_VALUE) - 1)
    layout = Layout((Field("values", num_values, 0.0, top, 1.0),))
    header = consortium.header(layout)
    # Integers of a linear congruence, not random: the true sum is checked, secrecy is not measured here.
    ramp = np.arange(num_values, dtype=np.int64)
    spent, uploaded = ProcessorTime(), 0
    truth = np.zeros(num_values, dtype=np.int64)
    collecting = Collecting.start(consortium.view, 0, layout.num_ciphertexts(cohort))
    for index, member in enumerate(consortium.view.cohort):
        integers = (ramp * 7919 + index * 104729) % (1 << BITS_PER_VALUE)
        truth += integers
        values = {"values": integers.astype(np.float64)}
        with spent.of("node"):
            upload = consortium.contribute(member, header, layout, values)
        uploaded += len(upload)
        with spent.of("coordinator"):
            collecting = collecting.receive(member, upload)
    step = collecting.close().finalise()
    for member in step.survivors:
        with spent.of("node"):
            reply = consortium.reveal_shares(member, header, step)
        uploaded += len(reply)
        with spent.of("coordinator"):
            step = step.receive(member, reply)
    with spent.of("coordinator"):
        sealed = step.finish()
    exact = True
    for member in consortium.view.cohort:
        with spent.of("node"):
            opened = consortium.open(member, header, layout, sealed)
        exact = exact and np.array_equal(opened.integers["values"], truth)
    return {
        "nodes": cohort,
        "values": num_values,
        "bytes_per_value": round(uploaded / cohort / num_values, 2),
        "node_cpu_s": round(spent.by_role["node"] / cohort, 4),
        "coordinator_cpu_s_per_node": round(spent.by_role["coordinator"] / cohort, 4),
        "exact": exact,
    }


def run(
    nodes: int = 5,
    values: Sequence[int] = (10_000, 100_000, 1_000_000),
    cohorts: Sequence[int] = (3, 5, 10, 20, 50),
    progress: Progress | None = None,
    repeats: int = 3,
) -> list[dict[str, float | int | bool]]:
    """Measure sums of several sizes at one cohort, then several cohorts at the smallest size.

    Args:
        nodes: Cohort of the first rows.
        values: Vector lengths of the first rows.
        cohorts: Cohorts of the other rows.
        progress: Called with one line before each measurement.
        repeats: Measurements of each row, of which the median counts.

    Returns:
        Flat rows, see `measure`.
    """
    plan = [(nodes, length) for length in values]
    plan += [(cohort, min(values)) for cohort in cohorts if (cohort, min(values)) not in plan]
    rows = []
    measure(3, 1)  # contexts and tables that every process builds once are no cost of a sum
    for cohort, length in plan:
        if progress is not None:
            progress(f"sealed sum: {cohort} nodes, {length} values")
        rows.append(_median([measure(cohort, length) for _ in range(repeats)]))
    return rows


def _median(rows: Sequence[Mapping[str, float | int | bool]]) -> dict[str, float | int | bool]:
    """One row of several measurements of the same sum: median times; exact only if all of them were."""
    medians = {
        name: statistics.median(row[name] for row in rows) for name in ("node_cpu_s", "coordinator_cpu_s_per_node")
    }
    return {**rows[0], **medians, "exact": all(row["exact"] for row in rows)}
