"""The MLflow adapter on a real sqlite store."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.registry import Registry, RegistryRefused

TAGS = {"agreement_hash": "ab" * 32, "method": "newton"}
SIGNATURES = {"bank-a": b"\x01" * 64, "bank-b": b"\x02" * 64}


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory):
    """One database for the module: creating MLflow's tables takes more than a second."""
    return tmp_path_factory.mktemp("coordinator")


@pytest.fixture
def registry(state_dir):
    return Registry(state_dir)


def test_importing_the_registry_does_not_load_mlflow():
    code = "import sys, coordinator.registry; sys.exit('mlflow' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_telemetry_is_off_before_mlflow_is_loaded(registry):
    registry.open_run("telemetry", tags={})

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["DO_NOT_TRACK"] == "true"
    from mlflow.telemetry.utils import is_telemetry_disabled  # noqa: PLC0415 - after the environment is set

    assert is_telemetry_disabled()


def test_run_that_comes_back_after_a_crash_is_the_same_mlflow_run(state_dir):
    before = Registry(state_dir).open_run("run-crash", tags=TAGS)
    before.log_parameters({"bins": 8, "tower": "additive"})
    before.log_round(1, {"loss": 0.69})
    before.log_round(2, {"loss": 0.26})

    after = Registry(state_dir).open_run("run-crash", tags=TAGS)
    after.log_parameters({"bins": 8, "tower": "additive"})
    after.log_round(2, {"loss": 0.26})
    after.log_round(3, {"loss": 0.19})
    after.finish("finished")

    assert before.mlflow_run_id == after.mlflow_run_id
    from mlflow.tracking import MlflowClient  # noqa: PLC0415 - slow to load

    client = MlflowClient(f"sqlite:///{state_dir / 'mlflow.sqlite'}")
    history = client.get_metric_history(after.mlflow_run_id, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 0.69), (2, 0.26), (3, 0.19)]
    run = client.get_run(after.mlflow_run_id)
    assert run.data.tags["method"] == "newton"
    assert run.data.params == {"bins": "8", "tower": "additive"}
    assert run.info.status == "FINISHED"


def test_settings_that_change_after_a_resume_are_refused(registry):
    record = registry.open_run("run-changed", tags={})
    record.log_parameters({"ridge": 1.0})

    with pytest.raises(RegistryRefused, match="registry"):
        registry.open_run("run-changed", tags={}).log_parameters({"ridge": 2.0})


def test_registered_model_comes_back_by_alias_with_hash_and_signatures(registry):
    record = registry.open_run("run-model", tags=TAGS)
    first = record.register_model("five-banks.credit", b"first model", signatures=SIGNATURES)
    again = record.register_model("five-banks.credit", b"first model", signatures=SIGNATURES)
    newer = registry.open_run("run-newer", tags=TAGS)
    second = newer.register_model("five-banks.credit", b"second model", signatures=SIGNATURES)

    stored = registry.load_model("five-banks.credit")
    assert first == again
    assert first.version != second.version
    assert stored.artefact == b"second model"
    assert hashlib.sha256(b"second model").hexdigest() == stored.digest == second.digest
    assert stored.signatures == SIGNATURES
    assert stored.run_id == "run-newer"


def test_changed_model_file_is_refused(registry, state_dir):
    registry.open_run("run-tampered", tags={}).register_model("tampered", b"honest model", signatures=SIGNATURES)
    (stored,) = [
        path
        for path in (state_dir / "mlflow-artifacts").rglob("model.tallystick")
        if path.read_bytes() == b"honest model"
    ]
    stored.write_bytes(b"another model")

    with pytest.raises(RegistryRefused, match="the stored file was changed"):
        registry.load_model("tampered")


def test_model_file_that_is_gone_is_one_sentence(registry, state_dir):
    registry.open_run("run-gone", tags={}).register_model("gone", b"a model soon gone", signatures=SIGNATURES)
    for path in (state_dir / "mlflow-artifacts").rglob("model.tallystick"):
        if path.read_bytes() == b"a model soon gone":
            path.unlink()

    with pytest.raises(RegistryRefused, match="restore"):
        registry.load_model("gone")


def test_model_that_its_members_keep_cannot_be_loaded(registry):
    record = registry.open_run("run-sealed", tags={})
    registered = record.register_sealed("sealed.credit", b"ciphertext", "cd" * 32)

    assert registered.kind == "sealed"
    with pytest.raises(RegistryRefused, match="members keep"):
        registry.load_model("sealed.credit")


def test_unknown_model_is_refused_with_the_names_that_exist(registry):
    registry.open_run("run-known", tags={}).register_model("known", b"model", signatures=SIGNATURES)

    with pytest.raises(RegistryRefused, match=r"'unknown'.*known"):
        registry.load_model("unknown")


@pytest.mark.parametrize("run_id", ["", "x' OR '1'='1", "Upper", "a" * 65])
def test_run_id_that_is_none_is_refused(registry, run_id):
    with pytest.raises(RegistryRefused, match="run id"):
        registry.open_run(run_id, tags={})


@pytest.mark.parametrize("name", ["Кредит.credit", "a/b:c", "x' OR '1'='1", "a" * 300, 'say "when"', "line\nbreak"])
def test_model_may_be_named_after_any_agreement(registry, name):
    record = registry.open_run("run-name", tags={})
    first = record.register_model(name, b"m", signatures={})

    assert record.register_model(name, b"m", signatures={}) == first
    assert registry.load_model(name).artefact == b"m"


@pytest.mark.parametrize("name", ["", "  ", "/", "::"])
def test_model_name_that_is_none_is_refused(registry, name):
    with pytest.raises(RegistryRefused, match="model name"):
        registry.open_run("run-name", tags={}).register_model(name, b"m", signatures={})


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "", "a/../../b"])
def test_artifact_name_cannot_leave_the_run(registry, name):
    with pytest.raises(ValueError, match="relative path"):
        registry.open_run("run-artifact", tags={}).log_artifact(name, b"")


def test_runs_are_listed_with_their_last_figures(registry):
    record = registry.open_run("run-listed", tags={})
    record.log_round(1, {"loss": 0.5})
    record.log_round(2, {"loss": 0.25})
    record.finish("failed")

    (listed,) = [run for run in registry.runs() if run.run_id == "run-listed"]
    assert listed.status == "failed"
    assert listed.metrics == {"loss": 0.25}
