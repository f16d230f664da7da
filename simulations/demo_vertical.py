"""The vertical story: three roles know other columns of the same borrowers; what all of them together are worth.

Three banks, three payment institutions and three logistics firms; with one or two a role, members would know each
other's part in their role's sums.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from threadpoolctl import threadpool_limits

from coordinator.request import RunRequest
from models.card import CARD_FILE, load_card
from models.role_tower import RoleTower
from nodes.tower_folder import TowerFolder
from policies.proposal import MethodSettings
from simulations.consortium import PURPOSE, TASK, Consortium, ScoringPlan
from simulations.datasets import RoleDataSet, load_role_data_set
from simulations.demo import DemoResult, Laps, best_alone, write_comparison
from simulations.demo_score import federated_score, known_everywhere
from simulations.processes import Processes
from simulations.role_dealing import OVERLAP, DealtRoles, deal_roles, members_by_role
from simulations.roles import LABEL_ROLE, found_dealt
from simulations.running import Announce, FinishedRun, OnEvent, free_port, run_to_end, start_processes
from simulations.vertical_auditor import UnsafeVerticalAuditor, vertical_settings

NUM_ROLES: Final = 3
MEMBERS_PER_ROLE: Final = 3
SETTINGS: Final = MethodSettings(method="vertical", passes=4, pairs=5)
ROWS: Final = 45_000
"""Borrowers in the demo: finding common ones costs each pair of members about 35 microseconds a borrower and exchange,
and there are 27 pairs."""
SEED: Final = 7


def run_vertical(folder: Path, data: str, num_rows: int, *, announce: Announce, on_event: OnEvent) -> DemoResult:
    """Play the whole story.

    Args:
        folder: Where results, and until `tidy` the consortium itself, lie; absent or empty.
        data: Name of the data set, see `simulations.datasets`.
        num_rows: Borrowers, drawn at random; 0 for all of them.
        announce: Called with a sentence at each stage.
        on_event: Called with every event of the training run.

    Raises:
        UserError: The data cannot be fetched, a process does not come up, or the run fails.
    """
    laps = Laps()
    announce(f"data: {data}")
    dealt = deal(load_role_data_set(data, NUM_ROLES), num_rows)
    laps.lap("data")
    announce(f"founding a consortium of {len(dealt.members)} members in {folder}")
    scoring = ScoringPlan(free_port())
    consortium = found_dealt(folder / "consortium", dealt, fleet_port=free_port(), scoring=scoring)
    _say_who_has_what(dealt, announce)
    laps.lap("founding")
    with Processes(folder / "logs") as processes:
        start_processes(consortium, processes, announce)
        laps.lap("start")
        announce(f"training: {SETTINGS.passes} passes over encrypted residuals, {SETTINGS.pairs} pairwise terms a role")
        run = run_to_end(consortium, RunRequest(task=TASK, purpose=PURPOSE, settings=SETTINGS), on_event)
        laps.lap("training")
        borrower = known_everywhere(dealt)
        announce(f"one federated score: {borrower}, asked of nine nodes through the gateway on port {scoring.port}")
        score = federated_score(consortium, scoring, run.folder / TASK, borrower)
        laps.lap("score")
    announce("auditor (exists only in demos): every bank alone, role by role, and all columns pooled")
    threadpool_limits(limits=1)  # small matrices: a second thread costs more than it brings
    settings = vertical_settings(consortium.agreement, SETTINGS)
    auditor = UnsafeVerticalAuditor.of_members(dealt.rows, consortium.agreement, TASK, settings)
    federated = auditor.federated_scores(*trained_model(consortium, run))
    table, predicted = auditor.compare(federated, progress=announce)
    laps.lap("audit")
    shown = ("pooled", "federated", best_alone(table))
    write_comparison(folder, run.folder / TASK / CARD_FILE, auditor.holdout_label, table, predicted, shown=shown)
    return DemoResult("vertical", table, laps.total(), folder, score)


def deal(data: RoleDataSet, num_rows: int) -> DealtRoles:
    """Draw borrowers, and deal them to the demo's members: one of each role or, by chance, none of a role.

    Args:
        data: Of three roles.
        num_rows: How many borrowers; 0 for all of them.
    """
    ids = data.frames[LABEL_ROLE][data.id_column].to_numpy()
    if 0 < num_rows < len(ids):
        # Nothing in a demo's sample is secret, and the same seed gives the same table.
        drawn: list[str] = np.random.default_rng(SEED).permutation(ids)[:num_rows].tolist()
        data = data.with_rows(drawn)
    return deal_roles(data, members_by_role(data.roles, MEMBERS_PER_ROLE), seed=SEED)


def trained_model(consortium: Consortium, run: FinishedRun) -> tuple[dict[str, RoleTower], float]:
    """The towers on the disk of one member of each role, and the bias that the members signed.

    No party has all of them: only who holds every member's folder can put them together.
    """
    table = load_card(run.folder / TASK / CARD_FILE).evidence.table
    version, bias = table.federated_version or "", table.bias_log_odds or 0.0
    holders = {member.role: member.id for member in consortium.agreement.members}
    towers = {role: TowerFolder(consortium.node_state(member)).load(TASK, version) for role, member in holders.items()}
    return towers, bias


def _say_who_has_what(dealt: DealtRoles, announce: Announce) -> None:
    label = dealt.data.first_label
    for role in dealt.data.roles:
        columns = ", ".join(dealt.data.columns_of(role))
        sizes = ", ".join(f"{member} {len(dealt.rows[member]):,}" for member in dealt.members_of(role))
        announce(f"{role}: {sizes} borrowers; columns {columns}")
    bad = 100 * dealt.data.frames[label.role][label.column].mean()
    announce(f"every {label.role} knows which of its borrowers went bad ({bad:.1f} %)")
    announce(f"each other role knows {100 * OVERLAP:.0f} % of the borrowers; nobody is told which")
