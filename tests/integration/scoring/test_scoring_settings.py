"""`tallystick coordinator run` and `tallystick node run` with a scoring table in their settings."""

import socket

import numpy as np
import pytest
import tomli_w

from models.score_slots import ScoreSlots
from nodes.scoring_tables import EntityTable
from policies.fingerprints import entity_token
from policies.presets import smallest_privacy_terms
from simulations.consortium import found
from simulations.dealing import deal_shares
from simulations.demo_horizontal import MODEL
from simulations.population import synthetic_population
from simulations.processes import Processes

THREE_BANKS = {"bank-a": 0.4, "bank-b": 0.3, "bank-c": 0.3}
VERSION = "ab" * 32

pytestmark = pytest.mark.acceptance


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def consortium(tmp_path):
    data_set = synthetic_population(300, 1)
    made = found(
        tmp_path,
        data_set,
        deal_shares(data_set, THREE_BANKS, seed=1),
        model=MODEL,
        privacy=smallest_privacy_terms(3),
        fleet_port=free_port(),
    )
    port = free_port()
    (tmp_path / "coordinator" / "clients").mkdir()
    add(made.coordinator_settings, {"scoring": {"port": port, "clients_dir": "clients"}})
    layout = ScoreSlots.of_agreement(made.agreement)
    for member in made.members:
        table = EntityTable.of(layout, [entity_token(bytes(32), "id", "1")], np.ones((1, layout.width), dtype=np.int64))
        (tmp_path / member / "tables").mkdir(mode=0o700)
        table.save(tmp_path / member / "tables" / f"credit.{VERSION}.npz")
        policy = {
            "format": "tallystick-scoring-policy/1",
            "tasks": ["credit"],
            "purposes": ["credit-model-training"],
            "grant_issuers": [made.agreement.coordinator.identity_key],
        }
        (tmp_path / member / "scoring.toml").write_text(tomli_w.dumps(policy))
        place = {"gateway": f"127.0.0.1:{port}", "policy_path": "scoring.toml", "tables_dir": "tables"}
        add(made.node_settings(member), {"scoring": place})
    return made


def add(path, table):
    path.write_text(path.read_text() + "\n" + tomli_w.dumps(table))


def test_node_attends_to_training_and_to_scores(consortium):
    with Processes(consortium.folder / "logs") as processes:
        processes.start("coordinator", "coordinator", "run", "--settings", str(consortium.coordinator_settings))
        processes.wait_for("coordinator", r"scoring on 127\.0\.0\.1:\d+", deadline_s=180)
        member = consortium.members[0]
        processes.start(member, "node", "run", "--settings", str(consortium.node_settings(member)))
        processes.wait_for(member, "^.*online for scores", deadline_s=180)
        processes.wait_for(member, "^.*online$", deadline_s=180)

        assert processes.stop(member) == 0
        assert processes.stop("coordinator") == 0


def test_node_whose_scoring_policy_is_missing_does_not_start(consortium):
    member = consortium.members[0]
    (consortium.folder / member / "scoring.toml").unlink()
    with Processes(consortium.folder / "logs") as processes:
        processes.start(member, "node", "run", "--settings", str(consortium.node_settings(member)))
        processes.wait_for(member, "expected this node's scoring policy, found nothing", deadline_s=180)


def test_node_without_a_table_attends_and_waits_for_one(consortium):
    member = consortium.members[0]
    for path in (consortium.folder / member / "tables").iterdir():
        path.unlink()
    with Processes(consortium.folder / "logs") as processes:
        processes.start("coordinator", "coordinator", "run", "--settings", str(consortium.coordinator_settings))
        processes.wait_for("coordinator", r"scoring on 127\.0\.0\.1:\d+", deadline_s=180)
        processes.start(member, "node", "run", "--settings", str(consortium.node_settings(member)))
        processes.wait_for(member, "^.*online for scores", deadline_s=180)


def test_node_with_a_file_among_its_tables_that_is_none_does_not_start(consortium):
    member = consortium.members[0]
    (consortium.folder / member / "tables" / f"credit.{VERSION}.npz").write_bytes(b"PK")
    with Processes(consortium.folder / "logs") as processes:
        processes.start(member, "node", "run", "--settings", str(consortium.node_settings(member)))
        processes.wait_for(member, "expected a table of partial scores, found something else", deadline_s=180)
