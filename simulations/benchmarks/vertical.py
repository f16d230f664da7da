"""What vertical training costs and reaches on real data: a coordinator and a node a member, each a process of its own.

Everything passes mutual TLS with every protection on. Seconds are those of the run's own events: from the proposal to
the members' signed release, and by phase. Writing the rows and starting the processes are not in them; the alignment
is, and stands apart too. The AUC is the one that the label holders signed.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from coordinator.request import RunRequest
from models.card import load_card
from policies.agreement import Agreement
from policies.errors import UserError
from policies.proposal import MethodSettings
from simulations.benchmarks.vertical_cases import (
    BY_FEATURES,
    BY_MEMBERS,
    BY_PARTIES,
    BY_ROWS,
    CASES,
    Case,
    found_case,
    rows_of,
)
from simulations.consortium import OPERATOR, PURPOSE
from simulations.processes import Processes
from simulations.role_dealing import DealtRoles
from simulations.running import FinishedRun, free_port, run_to_end, start_processes
from simulations.vertical_auditor import UnsafeVerticalAuditor, vertical_settings

Progress: TypeAlias = Callable[[str], None]
Row: TypeAlias = dict[str, float | int | str | bool]

PASSES: Final = 4
PAIRS: Final = 5
GROWTH: Final[Mapping[str, Sequence[Case]]] = MappingProxyType(
    {"rows": BY_ROWS, "features": BY_FEATURES, "parties": BY_PARTIES, "members": BY_MEMBERS}
)
"""What the costs are shown to grow with, and the consortia that show it."""
ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_CASE: Final = re.compile(r"(?P<data>[a-z_]+):(?P<roles>[2-9])(:(?P<rows>\d{1,7}))?")
_GROWN: Final = ("data", "parties", "members_per_role", "rows", "features", "auc")
_COSTS: Final = ("align_s", "training_s", "train_s", "cpu_s", "peak_rss_mb", "coordinator_rss_mb", "wire_mb")


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        results: One row per consortium, task, and pairwise terms off or on, see `run`.
        growth: One row per consortium, without pairwise terms; `by` names what differs from row to row.
    """

    results: list[Row]
    growth: list[Row]


def run(
    cases: Sequence[Case] = CASES,
    *,
    pairwise: Sequence[bool] = (False, True),
    growth: Mapping[str, Sequence[Case]] = MappingProxyType({}),
    environ: Mapping[str, str] = os.environ,
    progress: Progress = lambda _: None,
    folder: Path | None = None,
) -> Figures:
    """Measure every case, beside the same model with everybody's columns in one place and the label's role alone.

    Args:
        cases: Consortia whose AUC is compared.
        pairwise: Which of off and on to run.
        growth: Consortia whose costs are compared, by what differs; see `GROWTH`.
        environ: Where data sets are looked up.
        progress: Called with one line before each measurement.
        folder: Where everything is written; a temporary folder when None.

    Returns:
        `results`: data, task, parties, pairwise, auc (as signed), auc_pooled, auc_alone (the label's role), train_s
        (proposal to release), passes (of a task), peak_rss_mb (the largest process), wire_mb (bodies in and out of the
        coordinator, so that every letter counts on both of its ways); then rows (entities of the label holders),
        features, members_per_role, the seconds of keys, alignment and training, cpu_s (of all processes, during the
        run), and coordinator_rss_mb. A run of several tasks has a row for each; its costs are those of the run.
        `growth`: what differs, and costs alone.

    Raises:
        DataSetUnavailable: A data set is not here.
        UserError: A process or a run failed.
    """
    found: dict[tuple[Case, bool], list[Row]] = {}
    for case in cases:
        for pairs in pairwise:
            progress(f"{_named(case)}, pairwise terms {'on' if pairs else 'off'}")
            found[case, pairs] = _measured(case, pairs=pairs, environ=environ, folder=folder, progress=progress)
    grown: list[Row] = []
    for by, kinds in growth.items():
        for case in kinds:
            if (case, False) not in found:
                progress(f"growth by {by}: {_named(case)}")
                found[case, False] = _measured(case, pairs=False, environ=environ, folder=folder)
            first = found[case, False][0]
            grown.append({"by": by, **{name: first[name] for name in (*_GROWN, *_COSTS)}})
    return Figures([row for case in cases for pairs in pairwise for row in found[case, pairs]], grown)


def parse_cases(text: str) -> tuple[Case, ...]:
    """`uci_default:2,gmsc:3:5000` as cases: data set, roles, and rows where not all of them are meant.

    Raises:
        UserError: It is something else.
    """
    parts = [_CASE.fullmatch(part) for part in text.split(",")]
    if any(part is None or part["rows"] == "0" for part in parts):
        raise UserError(
            f"expected cases such as uci_default:2,gmsc:3:5000 (data set, 2 to 9 roles, rows), found {text[:60]!r}."
        )
    found = [part for part in parts if part is not None]
    cases = [Case(part["data"], int(part["roles"]), rows=int(part["rows"]) if part["rows"] else None) for part in found]
    return tuple(dict.fromkeys(cases))


def _measured(
    case: Case,
    *,
    pairs: bool,
    environ: Mapping[str, str],
    folder: Path | None,
    progress: Progress | None = None,
) -> list[Row]:
    """Rows of one run; with `progress`, the auditor's figures too."""
    dealt = rows_of(case, environ)
    method = MethodSettings(method="vertical", passes=PASSES, pairs=PAIRS if pairs else 0)
    with tempfile.TemporaryDirectory(prefix="tallystick-vertical-", dir=folder) as temporary:
        rows, agreement = measure(Path(temporary), case, dealt, method)
    if progress is not None:
        for row in rows:
            progress(f"{_named(case)}, {row['task']}: the auditor, who sees everybody's columns")
            row.update(_audited(dealt, agreement, str(row["task"]), method))
    return rows


def measure(folder: Path, case: Case, dealt: DealtRoles, method: MethodSettings) -> tuple[list[Row], Agreement]:
    """Found the consortium of a case, run it, and end its processes.

    Args:
        folder: Empty; keys, states, rows and logs go there.
        case: What to measure.
        dealt: Its rows.
        method: Of the run.

    Returns:
        A row a task (auc_pooled and auc_alone, the auditor's, are 0), and the agreement.

    Raises:
        UserError: A process or the run failed.
    """
    consortium = found_case(folder / "consortium", case, dealt, fleet_port=free_port())
    tasks = tuple(dealt.data.labels)
    request = RunRequest(task=tasks[0], further_tasks=tasks[1:], purpose=PURPOSE, settings=method)
    with Processes(folder / "logs", dict(ONE_THREAD)) as processes:
        start_processes(consortium, processes)
        before = processes.usage()
        finished = run_to_end(consortium, request)
        used = processes.usage()
    memory = {name: usage.peak_rss_bytes / 1e6 for name, usage in used.items()}
    label_role = dealt.data.first_label.role
    costs: Row = {
        "peak_rss_mb": round(max(memory.values()), 1),
        "wire_mb": round(_wire_bytes(finished) / 1e6, 2),
        "rows": sum(len(dealt.rows[member]) for member in dealt.members_of(label_role)),
        "features": len(dealt.data.features),
        "members_per_role": case.members_per_role,
        "keys_s": round(finished.seconds("waiting", ["aligning"]), 2),
        "align_s": round(finished.seconds("aligning", ["aligned"]), 2),
        "training_s": round(finished.seconds("training", ["released"]), 2),
        "cpu_s": round(sum(used[name].cpu_s - before[name].cpu_s for name in used), 2),
        "coordinator_rss_mb": round(memory[OPERATOR], 1),
    }
    rows = [
        {
            "data": case.data,
            "task": task,
            "parties": case.parties,
            "pairwise": method.pairs > 0,
            "auc": _signed_auc(finished, task),
            "auc_pooled": 0.0,
            "auc_alone": 0.0,
            "train_s": round(finished.seconds("waiting", ["released"]), 2),
            "passes": sum(event.event == "pass" and event.details["task"] == task for event in finished.events),
            **costs,
        }
        for task in tasks
    ]
    return rows, consortium.agreement


def _audited(dealt: DealtRoles, agreement: Agreement, task: str, method: MethodSettings) -> Row:
    auditor = UnsafeVerticalAuditor.of_members(dealt.rows, agreement, task, vertical_settings(agreement, method))
    return {
        "auc_pooled": round(auditor.auc_of(auditor.roles), 6),
        "auc_alone": round(auditor.auc_of(auditor.roles[:1]), 6),
    }


def _signed_auc(finished: FinishedRun, task: str) -> float:
    quality = load_card(finished.folder / task).evidence.table.quality
    if quality is None or quality.auc is None:
        raise UserError(f"Expected an AUC in the release of {task}, found none: its hold-out has too few rows.")
    return quality.auc


def _wire_bytes(finished: FinishedRun) -> float:
    """Of the closing event, by phase."""
    closing = finished.events[-1].details
    return sum(float(str(value)) for name, value in closing.items() if name.endswith("_bytes"))


def _named(case: Case) -> str:
    less = [
        f"{limit:,} {what}" for limit, what in ((case.rows, "rows"), (case.features, "features")) if limit is not None
    ]
    return ", ".join([f"{case.data} of {case.parties} parties", *less])
