"""`tallystick train` before anything is queued."""

from policies.state_lock import is_served, sole_process
from simulations.consortium import found
from simulations.dealing import deal_shares
from simulations.demo_horizontal import MODEL
from simulations.population import synthetic_population
from tallystick.__main__ import main

THREE_BANKS = {"bank-a": 0.4, "bank-b": 0.3, "bank-c": 0.3}


def test_a_run_is_not_queued_where_no_coordinator_would_take_it_up(tmp_path, capsys):
    data_set = synthetic_population(300, 1)
    consortium = found(tmp_path, data_set, deal_shares(data_set, THREE_BANKS, seed=1), model=MODEL, fleet_port=1)
    arguments = ["--task", "credit", "--purpose", "credit-model-training"]

    code = main(["train", "--settings", str(consortium.coordinator_settings), *arguments])

    assert code == 1
    assert "Expected a running coordinator" in capsys.readouterr().err
    assert not (consortium.coordinator_state / "coordinator.sqlite").exists()


def test_a_state_folder_is_served_while_its_process_holds_it(tmp_path):
    assert not is_served(tmp_path)
    with sole_process(tmp_path):
        assert is_served(tmp_path)
    assert not is_served(tmp_path)
