"""Runs and models in MLflow: the one place that knows it.

MLflow gets what the members released and signed, and nothing else: the coordinator has nothing else. Under
release policy "platform" that is the opened model as well; under "members" the ciphertext and the members'
keyed hash.

Our run id is a tag of the MLflow run, and every write can be repeated: after a crash the driver opens the
run again and logs what it has, and the record is the same as if nothing had happened. MLflow is imported on
first use (it takes more than a second), with its telemetry off; its deprecation warnings are its own affair
and stay inside.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from policies.errors import UserError

RUN_TAG = "tallystick.run_id"
DIGEST_TAG = "sha256"
KEYED_TAG = "keyed_hash"
KIND_TAG = "kind"
MODEL_FOLDER = "model"
MODEL_FILE = "model.tallystick"
SIGNATURES_FILE = "model.signatures.json"
MAX_MODEL_BYTES = 512 * 1024 * 1024
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
_MAX_NAME_CHARACTERS = 200
ModelKind = Literal["opened", "sealed", "federated"]


class RegistryRefused(UserError):
    """The registry does not hold what was asked for, cannot be reached, or what it holds has been changed."""


@dataclass(frozen=True)
class RegisteredModel:
    """A version in the registry.

    `digest` is the SHA-256 of the artefact's (or ciphertext's) bytes, hex; of a federated model its keyed version.
    """

    name: str
    version: str
    digest: str
    kind: ModelKind


@dataclass(frozen=True)
class RunSummary:
    """A run as a list shows it; `metrics` are the last values."""

    run_id: str
    status: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class StoredModel:
    """What the registry gives back: an artefact whose hash was checked, and the members' signatures under it."""

    run_id: str
    artefact: bytes
    digest: str
    signatures: Mapping[str, bytes]


class Registry:
    """MLflow's tracking store and model registry.

    Args:
        state_dir: The coordinator's state folder; holds mlflow.sqlite and mlflow-artifacts/ unless a URI is
        given. tracking_uri: Another store, for example PostgreSQL or an MLflow server; its artifacts lie
        where it says. experiment: Name of the MLflow experiment.
    """

    def __init__(self, state_dir: Path, tracking_uri: str | None = None, experiment: str = "tallystick") -> None:
        self._state_dir = state_dir.resolve()
        self._tracking_uri = tracking_uri or f"sqlite:///{self._state_dir / 'mlflow.sqlite'}"
        self._experiment = experiment

    def open_run(self, run_id: str, *, tags: Mapping[str, str]) -> RunRecord:
        """Open the MLflow run of our run, or take it up again.

        Args:
            run_id: Our run id.
            tags: For example agreement hash and method.

        Raises:
            RegistryRefused: The store cannot be reached.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", run_id):
            raise RegistryRefused(
                "Expected a run id of small letters, digits and hyphens, found something else; use the run's own id."
            )
        with self._quiet():
            found = self._client.search_runs([self._experiment_id], f"tags.`{RUN_TAG}` = '{run_id}'", max_results=1)
            if found:
                mlflow_id = str(found[0].info.run_id)
                self._client.update_run(mlflow_id, status="RUNNING")
            else:
                created = self._client.create_run(self._experiment_id, tags={RUN_TAG: run_id}, run_name=run_id)
                mlflow_id = str(created.info.run_id)
            for name, value in tags.items():
                self._client.set_tag(mlflow_id, name, value)
        return RunRecord(self, run_id, mlflow_id)

    def runs(self) -> list[RunSummary]:
        """The latest runs (at most 1000), newest first."""
        with self._quiet():
            found = self._client.search_runs([self._experiment_id], order_by=["attributes.start_time DESC"])
            return [
                RunSummary(str(run.data.tags.get(RUN_TAG, "")), str(run.info.status).lower(), dict(run.data.metrics))
                for run in found
            ]

    def load_model(self, name: str, alias: str = "champion") -> StoredModel:
        """Fetch an opened model by name and alias, and check its hash.

        Raises:
            RegistryRefused: Not there, kept by its members, or its bytes are not those that were registered.
        """
        name = registered_name(name)
        with self._quiet():
            version = self._version_by_alias(name, alias)
            if version.tags.get(KIND_TAG) != "opened":
                raise RegistryRefused(
                    f"Expected an opened model {name!r} ({alias}), found one that its members keep: the "
                    "registry holds its ciphertext alone; score it at the members."
                )
            with tempfile.TemporaryDirectory() as folder:
                local = Path(self._client.download_artifacts(version.run_id, MODEL_FOLDER, folder))
                artefact = _read(local / MODEL_FILE)
                signatures = json.loads(_read(local / SIGNATURES_FILE))
            run_id = str(self._client.get_run(version.run_id).data.tags.get(RUN_TAG, ""))
        digest = hashlib.sha256(artefact).hexdigest()
        if digest != version.tags.get(DIGEST_TAG):
            raise RegistryRefused(
                f"Expected model {name!r} ({alias}) with SHA-256 {version.tags.get(DIGEST_TAG)}, found "
                f"{digest}; the stored file was changed, restore it or register the model again."
            )
        return StoredModel(run_id, artefact, digest, {m: bytes.fromhex(s) for m, s in signatures.items()})

    def _version_by_alias(self, name: str, alias: str) -> Any:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - lazy, see the module's docstring

        try:
            return self._client.get_model_version_by_alias(name, alias)
        except MlflowException:
            known = sorted(str(model.name) for model in self._client.search_registered_models())
            raise RegistryRefused(
                f"Expected a registered model {name!r} with alias {alias!r}, found "
                f"{'none; the registry knows ' + ', '.join(known) if known else 'an empty registry'}; "
                "train one with `tallystick train`, or name another."
            ) from None

    @cached_property
    def _client(self) -> Any:
        # Before the import: MLflow reads both when it is loaded.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ["DO_NOT_TRACK"] = "true"
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        from mlflow.tracking import MlflowClient  # noqa: PLC0415 - lazy, see the module's docstring

        self._state_dir.mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=self._tracking_uri, registry_uri=self._tracking_uri)

    @cached_property
    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        # A folder beside a local database; another store decides for itself.
        local = self._tracking_uri.startswith("sqlite:")
        location = (self._state_dir / "mlflow-artifacts").as_uri() if local else None
        return str(self._client.create_experiment(self._experiment, artifact_location=location))

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Keep MLflow's warnings inside, and turn its errors into ours."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _ = self._client
            from mlflow.exceptions import MlflowException  # noqa: PLC0415 - lazy, see the module's docstring

            try:
                yield
            except MlflowException as error:
                first = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                raise RegistryRefused(
                    f"Expected the run registry to do as asked, found: {first}; check the tracking URI and its disk."
                ) from error


@dataclass(frozen=True)
class RunRecord:
    """One run in the registry; every method may be called again with the same arguments.

    Attributes:
        registry: Where it lies.
        run_id: Our id.
        mlflow_run_id: MLflow's.
    """

    registry: Registry
    run_id: str
    mlflow_run_id: str
    _steps: dict[str, set[int]] = field(default_factory=dict, repr=False, compare=False)

    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        """Log settings; a second value for one name is refused, as MLflow's parameters are final."""
        with self._mlflow() as client:
            for name, value in parameters.items():
                client.log_param(self.mlflow_run_id, name, str(value))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        with self._mlflow() as client:
            for name, value in tags.items():
                client.set_tag(self.mlflow_run_id, name, value)

    def log_round(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one round's figures; a step that is already there stays as it is."""
        with self._mlflow() as client:
            for name, value in metrics.items():
                steps = self._steps.get(name)
                if steps is None:
                    history = client.get_metric_history(self.mlflow_run_id, name)
                    steps = self._steps[name] = {int(metric.step) for metric in history}
                if step not in steps:
                    client.log_metric(self.mlflow_run_id, name, float(value), step=step)
                    steps.add(step)

    def log_artifact(self, name: str, data: bytes) -> None:
        """Store bytes under a name such as "plots/roc.svg"; replaces what lies there."""
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise ValueError(f"an artifact's name is a relative path, found {name!r}")
        with self._mlflow() as client, tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / path.name
            local.write_bytes(data)
            parent = path.parent.as_posix()
            client.log_artifact(self.mlflow_run_id, str(local), None if parent == "." else parent)

    def register_model(
        self, name: str, artefact: bytes, *, signatures: Mapping[str, bytes], alias: str = "champion"
    ) -> RegisteredModel:
        """Register an opened model (release policy "platform") and point an alias at it.

        Args:
            name: Name in the registry, for example "five-banks.credit".
            artefact: The model's bytes.
            signatures: Members' signatures under them (`policies.release.sign_artefact`).
            alias: For example "champion"; moves from the version that had it.
        """
        self.log_artifact(f"{MODEL_FOLDER}/{MODEL_FILE}", artefact)
        document = json.dumps({member: s.hex() for member, s in sorted(signatures.items())}).encode()
        self.log_artifact(f"{MODEL_FOLDER}/{SIGNATURES_FILE}", document)
        return self._register(name, hashlib.sha256(artefact).hexdigest(), "opened", {}, alias)

    def register_sealed(
        self, name: str, ciphertext: bytes, keyed_hash: str, *, alias: str = "champion"
    ) -> RegisteredModel:
        """Record a model that its members keep: the ciphertext as the coordinator has it, and the keyed hash.

        Args:
            name: Name in the registry.
            ciphertext: The last sealed sum; unreadable once the epoch's keys are deleted.
            keyed_hash: The members' HMAC over the model, hex.
            alias: As in `register_model`.
        """
        self.log_artifact(f"{MODEL_FOLDER}/sealed.bin", ciphertext)
        digest = hashlib.sha256(ciphertext).hexdigest()
        return self._register(name, digest, "sealed", {KEYED_TAG: keyed_hash}, alias)

    def register_federated(
        self, name: str, released: bytes, version: str, *, alias: str = "champion"
    ) -> RegisteredModel:
        """Record a model whose towers stay with their roles: what the label holders signed, under its keyed version.

        Args:
            name: Name in the registry.
            released: The signed table, as JSON.
            version: The version that every member reports, hex.
            alias: As in `register_model`.
        """
        self.log_artifact(f"{MODEL_FOLDER}/released.json", released)
        return self._register(name, version, "federated", {KEYED_TAG: version}, alias)

    def finish(self, status: Literal["finished", "failed", "killed"]) -> None:
        """End the run."""
        with self._mlflow() as client:
            client.set_terminated(self.mlflow_run_id, _STATUS[status])

    def _register(
        self, name: str, digest: str, kind: ModelKind, tags: Mapping[str, str], alias: str
    ) -> RegisteredModel:
        name = registered_name(name)
        with self._mlflow() as client:
            if not self._is_registered(client, name):
                client.create_registered_model(name)
            same = [
                version
                for version in client.search_model_versions(f"run_id = '{self.mlflow_run_id}'")
                if version.name == name and version.tags.get(DIGEST_TAG) == digest
            ]
            if same:
                version = same[0]
            else:
                uri = client.get_run(self.mlflow_run_id).info.artifact_uri
                all_tags = {DIGEST_TAG: digest, KIND_TAG: kind, RUN_TAG: self.run_id, **tags}
                version = client.create_model_version(name, f"{uri}/{MODEL_FOLDER}", self.mlflow_run_id, tags=all_tags)
            client.set_registered_model_alias(name, alias, version.version)
        return RegisteredModel(name, str(version.version), digest, kind)

    @staticmethod
    def _is_registered(client: Any, name: str) -> bool:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - lazy, see the module's docstring

        try:
            client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    @contextmanager
    def _mlflow(self) -> Iterator[Any]:
        with self.registry._quiet():  # noqa: SLF001 - the two classes are one adapter
            yield self.registry._client  # noqa: SLF001


def registered_name(name: str) -> str:
    """The name under which MLflow keeps a model: it knows neither "/" nor ":", and agreements may be named anything.

    Raises:
        RegistryRefused: Nothing is left of it.
    """
    kept = "".join(c if c.isprintable() and c not in "/:" else "-" for c in name).strip()[:_MAX_NAME_CHARACTERS]
    if not kept.strip("-. "):
        raise RegistryRefused("Expected a model name, found none; name it, for example after agreement and task.")
    return kept


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MODEL_BYTES + 1)
    except OSError as error:
        raise RegistryRefused(
            f"Expected {path.name} among the run's artifacts, found none ({error.strerror}); "
            "restore the artifact folder or register the model again."
        ) from None
    if len(data) > MAX_MODEL_BYTES:
        raise RegistryRefused(f"Expected {path.name} of at most {MAX_MODEL_BYTES} bytes, found more; it is not used.")
    return data
