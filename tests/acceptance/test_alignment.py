"""An alignment between real processes. Seconds are `tallystick bench alignment`'s business, not a test's."""

import json
import socket
import sqlite3

import pytest

from simulations.benchmarks.alignment import FEATURE_HOLDER, LABEL_HOLDER, measure, run
from simulations.processes import Processes
from simulations.roles import PURPOSE, TASK, found_roles

pytestmark = pytest.mark.acceptance


def test_150_thousand_by_150_thousand_identifiers_align_exactly():
    (row,) = run(((150_000, 150_000),))

    assert row["exact"]
    assert row["common"] == 120_000


def test_a_million_by_100_thousand_identifiers_run_in_bounded_memory():
    """What grows is bounded; what a node process takes before it aligns is torch's, and differs between installations."""
    small, large = run(((10_000, 10_000), (1_000_000, 100_000)))

    assert large["exact"]
    assert large["common"] == 80_000
    for node in ("label_holder_rss_mb", "feature_holder_rss_mb"):
        assert large[node] - small[node] <= 160


class KillingSteps:
    """Ends a node with SIGKILL before the n-th exchange and starts it again; the step waits for it."""

    def __init__(self, steps, processes, victim, at):
        self.steps, self.processes, self.victim, self.at = steps, processes, victim, at
        self.exchanges = 0

    def run_step(self, action, bodies, *, deadline_s, enough=None):
        if action == "align":
            self.exchanges += 1
            if self.exchanges == self.at:
                self.processes.kill(self.victim)
                self.processes.restart(self.victim)
        return self.steps.run_step(action, bodies, deadline_s=deadline_s, enough=enough)

    def online(self):
        return self.steps.online()

    def wait_online(self, members, *, deadline_s):
        return self.steps.wait_online(members, deadline_s=deadline_s)


@pytest.mark.parametrize("victim", [LABEL_HOLDER, FEATURE_HOLDER])
def test_a_node_process_killed_in_the_middle_comes_back_and_the_alignment_is_exact(tmp_path, victim):
    row = measure(
        tmp_path, 60_000, 60_000, 48_000, wrap=lambda steps, processes: KillingSteps(steps, processes, victim, 4)
    )

    assert row["exact"]
    assert row["common"] == 48_000


def test_members_align_with_nothing_but_the_command_line(tmp_path):
    """`tallystick node run`, `coordinator run` and `train --method alignment`, rows from CSV files, ids written differently."""
    roles = {"bank-a": "bank", "payment-a": "payment", "logistics-a": "logistics"}
    written = {
        "bank-a": ["seller_id,bank_volume,defaulted", *(f"CN-{n:04d},{n},{n % 2}" for n in range(400))],
        "payment-a": ["seller_id,payment_volume", *(f"cn{n:04d},{n}" for n in range(300, 700)), "cn9999,"],
        "logistics-a": ["seller_id,logistics_volume", *(f"CN {n:04d},{n}" for n in range(350, 450))],
    }
    sources = {member: {"kind": "csv", "path": "rows.csv"} for member in roles}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    consortium, _ = found_roles(tmp_path / "consortium", roles, sources, fleet_port=port, id_type="code")
    for member, lines in written.items():
        (consortium.folder / member / "rows.csv").write_text("\n".join(lines) + "\n")
    with Processes(tmp_path / "logs") as processes:
        processes.start("coordinator", "coordinator", "run", "--settings", str(consortium.coordinator_settings))
        processes.wait_for("coordinator", "listening", deadline_s=120)
        for member in roles:
            processes.start(member, "node", "run", "--settings", str(consortium.node_settings(member)))
        for member in roles:
            processes.wait_for(member, "online", deadline_s=120)
        arguments = ("--task", TASK, "--purpose", PURPOSE, "--method", "alignment", "--json")
        processes.start("train", "train", "--settings", str(consortium.coordinator_settings), *arguments)
        processes.wait_for("train", '"event": "finished"', deadline_s=120)
        events = [json.loads(line) for line in processes["train"].text().splitlines()]

    assert [event["event"] for event in events[-3:]] == ["aligning", "aligned", "finished"]
    common = {}
    for member in ("payment-a", "logistics-a"):
        db = sqlite3.connect(consortium.folder / member / "state" / "node.sqlite")
        (details,) = db.execute("select details from journal where event = 'alignment ended'").fetchone()
        assert db.execute("select count(*) from alignments").fetchone() == (0,)
        db.close()
        common[member] = json.loads(details)["common"]
    assert common == {"payment-a": 100, "logistics-a": 50}
