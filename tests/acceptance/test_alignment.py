"""An alignment between real processes, with the bounds of issue 3."""

import pytest

from simulations.benchmarks.alignment import FEATURE_HOLDER, LABEL_HOLDER, measure, run

pytestmark = pytest.mark.acceptance


def test_150_thousand_by_150_thousand_identifiers_take_at_most_30_seconds_on_two_cores():
    (row,) = run(((150_000, 150_000),))

    assert row["exact"]
    assert row["common"] == 120_000
    assert row["seconds"] <= 30


def test_a_million_by_100_thousand_identifiers_run_in_bounded_memory():
    (row,) = run(((1_000_000, 100_000),))

    assert row["exact"]
    assert row["common"] == 80_000
    assert row["peak_rss_mb"] <= 600


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
