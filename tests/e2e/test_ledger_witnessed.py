"""Nodes in processes of their own co-sign the ledger of the coordinator that they are connected to."""

import json

import pytest

from tallystick.__main__ import main

pytestmark = pytest.mark.acceptance

PATIENCE_S = 180


def test_nodes_cosign_what_a_run_opened_and_released_and_do_again_after_kill_9(launch, capsys):
    with launch(3) as fleet:
        settings = ["--settings", str(fleet.consortium.coordinator_settings)]
        for life in range(2):
            run_id = fleet.propose(method="newton", rounds=2)
            fleet.finish(run_id, deadline_s=PATIENCE_S)
            everybody = r"co-signed by bank-a, bank-b, bank-c[\s\S]*" * (life + 1)
            fleet.processes.wait_for("coordinator", everybody, deadline_s=PATIENCE_S)

            assert main(["ledger", "verify", *settings, "--witnesses", "3", "--json"]) == 0
            report = json.loads(capsys.readouterr().out)
            assert report["findings"] == []
            assert report["cosigned_entries"] == 5 * (life + 1) + life  # a release and four sums a run
            if life == 0:
                fleet.kill("coordinator")
