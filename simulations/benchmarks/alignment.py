"""What it costs two members to find the sellers that both know: real processes, real TLS, every protection on.

A bank and a payment institution align through a coordinator; a third member takes part in the key epoch, because no
agreement has fewer. The coordinator runs in this process, each node in its own. The seconds are those from the
proposal of the run to the end of the alignment; writing the identifiers and starting the processes are not in them.
"""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from coordinator.alignment import AlignmentRound
from coordinator.engine.steps import Steps
from coordinator.epoch_opening import EpochOpening
from coordinator.flower_superlink import SuperLinkService
from coordinator.request import RunRequest
from nodes.alignment_store import AlignmentStore
from nodes.identity import NodeIdentity
from nodes.store import NodeStore
from policies.alignment import alignment_pairs
from policies.errors import UserError
from policies.proposal import MethodSettings
from protos.private_set_intersection.channel import Pair
from protos.private_set_intersection.feature_holder import UNKNOWN
from protos.sealed_sum.keys import SigningKey
from simulations.consortium import Consortium
from simulations.processes import Processes
from simulations.roles import PURPOSE, TASK, found_roles
from simulations.running import free_port

Progress = Callable[[str], None]
LABEL_HOLDER, FEATURE_HOLDER, WITNESS = "bank-a", "payment-a", "logistics-a"
ROLES = {LABEL_HOLDER: "bank", FEATURE_HOLDER: "payment", WITNESS: "logistics"}
PAIR = Pair(LABEL_HOLDER, FEATURE_HOLDER)
RUN_ID = "bench-alignment"
SIZES = ((10_000, 10_000), (50_000, 50_000), (150_000, 150_000), (1_000_000, 100_000))
OVERLAP = 0.8
"""Share of the smaller set that both sides know."""


def run(
    sizes: Sequence[tuple[int, int]] = SIZES,
    overlap: float = OVERLAP,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> list[dict[str, float | int | bool]]:
    """Measure the alignment of two sets for each pair of sizes.

    Args:
        sizes: Identifiers of the label holder and of the feature holder.
        overlap: Share of the smaller set that is in the other one too.
        progress: Called with one line before each measurement.
        folder: Where everything is written; a temporary folder when None.

    Returns:
        Flat rows, see `measure`.
    """
    rows = []
    for left, right in sizes:
        if progress is not None:
            progress(f"alignment: {left} x {right} identifiers")
        with tempfile.TemporaryDirectory(prefix="tallystick-alignment-", dir=folder) as temporary:
            rows.append(measure(Path(temporary), left, right, round(min(left, right) * overlap)))
    return rows


def measure(
    folder: Path,
    left: int,
    right: int,
    common: int,
    wrap: Callable[[Steps, Processes], Steps] | None = None,
) -> dict[str, float | int | bool]:
    """Align two sets of given sizes.

    Args:
        folder: Empty; keys, states, identifiers and logs go there.
        left: Identifiers of the label holder.
        right: Identifiers of the feature holder.
        common: How many of them are the same.
        wrap: Given the engine's steps and the processes, returns the steps to use: the place of a fault.

    Returns:
        A flat row: left, right, common (as found), seconds, peak_rss_mb (largest of the two nodes and this process,
        which holds the coordinator), label_holder_rss_mb, feature_holder_rss_mb, coordinator_rss_mb, wire_mb (bodies
        in and out of the coordinator, so that every element counts on both of its ways), label_holder_cpu_s,
        feature_holder_cpu_s and coordinator_cpu_s (processor time within the seconds: what a busy machine does not
        change), exchanges, exact (the order on both disks compared with the identifiers, row by row).
    """
    files = {
        LABEL_HOLDER: _write(folder / "left.txt", _identifiers(0, left, 48_271)),
        FEATURE_HOLDER: _write(folder / "right.txt", _identifiers(left - common, right, 65_537)),
        WITNESS: _write(folder / "witness.txt", ()),
    }
    fleet_port = free_port()
    consortium, operator = found_roles(
        folder / "consortium",
        ROLES,
        {member: {"kind": "csv", "path": "none.csv"} for member in ROLES},
        fleet_port=fleet_port,
        id_type="code",
        roles_without_features=frozenset({ROLES[WITNESS]}),
    )
    with (
        _coordinator(consortium, fleet_port) as fleet,
        Processes(folder / "logs", {"OMP_NUM_THREADS": "1"}) as processes,
    ):
        for member, path in files.items():
            settings = str(consortium.node_settings(member))
            processes.start_python(member, "-m", "simulations.benchmarks.alignment_node", settings, str(path))
        for member in files:
            processes.wait_for(member, "^online", deadline_s=60.0)
        with fleet.open_run(RUN_ID) as steps:
            before = processes.usage()
            own_cpu_s = time.process_time()
            started = time.perf_counter()
            with _watched_memory() as own:
                driven = _align(consortium, operator, steps if wrap is None else wrap(steps, processes))
            seconds = time.perf_counter() - started
            own_cpu_s = time.process_time() - own_cpu_s
        used = processes.usage()
    usage = {member: of.peak_rss_bytes / 1e6 for member, of in used.items()}
    found, exact = _check(consortium, files)
    traffic = driven.traffic
    return {
        "left": left,
        "right": right,
        "common": found,
        "seconds": round(seconds, 2),
        "peak_rss_mb": round(max(usage[LABEL_HOLDER], usage[FEATURE_HOLDER], *own), 1),
        "label_holder_rss_mb": round(usage[LABEL_HOLDER], 1),
        "feature_holder_rss_mb": round(usage[FEATURE_HOLDER], 1),
        "coordinator_rss_mb": round(max(own), 1),
        "wire_mb": round((sum(traffic.bytes_up.values()) + sum(traffic.bytes_down.values())) / 1e6, 2),
        "label_holder_cpu_s": round(used[LABEL_HOLDER].cpu_s - before[LABEL_HOLDER].cpu_s, 2),
        "feature_holder_cpu_s": round(used[FEATURE_HOLDER].cpu_s - before[FEATURE_HOLDER].cpu_s, 2),
        "coordinator_cpu_s": round(own_cpu_s, 2),
        "exchanges": traffic.exchanges,
        "exact": exact and found == common,
    }


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """`150000x150000,1000000x100000` as pairs.

    Raises:
        UserError: It is something else.
    """
    try:
        pairs = [tuple(int(number) for number in part.split("x")) for part in text.split(",")]
        return tuple((left, right) for left, right in pairs if 0 < left <= 10**7 and 0 < right <= 10**7)
    except ValueError:
        raise UserError(f"expected sizes such as 150000x150000,1000000x100000, found {text[:60]!r}.") from None


def _align(consortium: Consortium, operator: NodeIdentity, steps: Steps) -> AlignmentRound:
    def ignore(event: str, **details: object) -> None:
        del event, details

    identity = SigningKey(operator.identity_key)
    opening = EpochOpening(consortium.agreement, identity, steps, deadline_s=60.0, announce=ignore)
    request = RunRequest(task=TASK, purpose=PURPOSE, settings=MethodSettings(method="alignment"))
    signed = opening.propose(RUN_ID, request)
    _, confirmations = opening.open(signed)
    pairs = alignment_pairs(consortium.agreement, opening.proposal(signed))
    driven = AlignmentRound(RUN_ID, pairs, steps, confirmations, deadline_s=120.0, pause_limit_s=240.0, announce=ignore)
    driven.run()
    return driven


def _identifiers(first: int, count: int, step: int) -> Iterator[str]:
    """Registration numbers of `count` sellers, in an order that has nothing to do with the other side's."""
    while math.gcd(step, count) != 1:  # else the walk comes back before it has seen everybody
        step += 1
    return (f"CN{(first + place * step % count) * 2_654_435_761 % 10**12:012d}" for place in range(count))


def _write(path: Path, identifiers: Iterable[str]) -> Path:
    """One identifier a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{identifier}\n" for identifier in identifiers)
    return path


def _check(consortium: Consortium, files: Mapping[str, Path]) -> tuple[int, bool]:
    """Common entities on the feature holder's disk, and whether both orders are right row by row."""
    orders, identifiers = {}, {}
    for member in (LABEL_HOLDER, FEATURE_HOLDER):
        store = NodeStore(consortium.folder / member / "state")
        orders[member] = AlignmentStore(store, RUN_ID).aligned_rows(PAIR)
        store.close()
        identifiers[member] = np.array(files[member].read_text().splitlines(), dtype=object)
    theirs, ours = orders[LABEL_HOLDER], orders[FEATURE_HOLDER]
    if theirs is None or ours is None:
        raise UserError("The alignment left no order on a node's disk; see its log.")
    known = ours != UNKNOWN
    same = identifiers[LABEL_HOLDER][theirs[known]] == identifiers[FEATURE_HOLDER][ours[known]]
    strangers = set(identifiers[LABEL_HOLDER][theirs[~known]]) & set(identifiers[FEATURE_HOLDER])
    return int(known.sum()), bool(np.all(same)) and not strangers


def _coordinator(consortium: Consortium, fleet_port: int) -> SuperLinkService:
    folder = consortium.folder / "coordinator"
    return SuperLinkService(
        state_dir=folder / "state" / "fleet",
        listen_host="127.0.0.1",
        fleet_port=fleet_port,
        certificate_path=folder / "keys" / "server.crt",
        key_path=folder / "keys" / "server.pem",
        ca_certificate_path=folder / "keys" / "consortium-ca.crt",
        members_dir=folder / "members",
    )


@contextmanager
def _watched_memory() -> Iterator[list[float]]:
    """Resident memory of this process in MB, five times a second while the block runs."""
    process, seen, over = psutil.Process(), [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            seen.append(process.memory_info().rss / 1e6)

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
