"""What a finished run leaves behind: its folder with card, model and plots, and its entry in the registry.

Everything here was signed by the members or is public in the protocol; the coordinator adds nothing of its own
but the time and the versions of the programs.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from coordinator.driver import RunOutcome
from coordinator.registry import MODEL_FILE, Registry
from models.card import CARD_FILE, KeyEpoch, MemberLine, ModelCard, RunEvidence, build_card
from models.card_html import render_html
from models.plots import calibration_plot, histogram_plot, loss_plot, roc_plot
from policies.agreement import Agreement
from policies.alignment import feature_holders
from policies.federated_model import FILE_NAME as FEDERATED_MODEL_FILE
from policies.federated_model import FederatedModel
from policies.proposal import MethodSettings

RELEASED_FILE = "released.json"
CARD_PAGE = "card.html"
PROGRAMS = ("tallystick", "flwr", "tenseal", "torch", "numpy", "mlflow")


def evidence_of(outcome: RunOutcome, agreement: Agreement, created_at: str) -> RunEvidence:
    """The run's evidence, as the model card prints it."""
    proposal, view, privacy = outcome.proposal, outcome.view, agreement.privacy
    task = agreement.task(outcome.released.table.task)
    vertical = proposal.settings.method == "vertical"
    return RunEvidence(
        run_id=proposal.run_id,
        story="vertical" if vertical else "horizontal",
        task=task.name,
        purpose=proposal.purpose,
        label=task.label,
        horizon_months=task.horizon_months,
        method=proposal.settings.method,
        settings=_settings(proposal.settings, agreement),
        created_at=created_at,
        agreement_name=agreement.name,
        agreement_hash=proposal.agreement_hash,
        proposal_hash=proposal.digest().hex(),
        members=tuple(MemberLine(id=member, role=agreement.member(member).role) for member in view.cohort),
        max_colluders=view.bounds.max_colluders,
        min_survivors=view.bounds.min_survivors,
        shamir_threshold=view.bounds.shamir_threshold,
        allow_roster_change=privacy.allow_roster_change,
        release_policy=agreement.release.policy,
        key_epochs=(KeyEpoch(number=1, epoch_id=view.epoch_id.hex(), members=len(view.cohort)),),
        table=outcome.released.table,
        signatures=outcome.released.signatures_base64(),
        keyed_hash=_keyed_hash(outcome, agreement),
        reason_codes=tuple(dict.fromkeys(feature.reason_code for feature in agreement.features)),
        label_role=task.label_role if vertical else "",
        feature_holders=len(feature_holders(agreement, proposal, task.name)) if vertical else 0,
        min_cell_count=privacy.min_cell_count,
        pdo_points=agreement.model.pdo_points,
        base_points=agreement.model.base_points,
        base_odds=agreement.model.base_odds,
        versions={"python": platform.python_version(), **{name: version(name) for name in PROGRAMS}},
    )


def _keyed_hash(outcome: RunOutcome, agreement: Agreement) -> str | None:
    """The members' own name of a model that they keep."""
    if outcome.released.table.federated_version is not None:
        return outcome.released.table.federated_version
    return outcome.model_report.hex() if agreement.release.policy == "members" else None


def _settings(settings: MethodSettings, agreement: Agreement) -> dict[str, bool | int | float | str | None]:
    """The hyper-parameters that the run's method has."""
    vertical = settings.method == "vertical"
    only_vertical = {"passes", "pairs"}
    kept = {"method", *only_vertical} if vertical else set(MethodSettings.model_fields) - only_vertical
    return {**settings.model_dump(include=kept), **_model_terms(agreement)}


def _model_terms(agreement: Agreement) -> dict[str, str | int | float]:
    model = agreement.model
    return {
        "tower": model.tower,
        "bins": model.bins,
        "hidden_units": " ".join(str(units) for units in model.hidden_units) or "none",
        "ridge": model.ridge,
        "smoothness": model.smoothness,
    }


def write_run_folder(folder: Path, outcome: RunOutcome, card: ModelCard) -> None:
    """Write card, released table, plots and, under release policy "platform", the model; each file whole or not."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / RELEASED_FILE, outcome.released.to_json())
    for name, plot in _plots(outcome).items():
        _write(folder / name, plot)
    if outcome.artefact is not None:
        _write(folder / MODEL_FILE, outcome.artefact)
    record = _federated_model(card)
    if record is not None:
        record.save(folder / FEDERATED_MODEL_FILE)
    _write(folder / CARD_PAGE, render_html(card).encode())
    _write(folder / CARD_FILE, card.to_json())  # last: a folder with a card is complete


def register(registry: Registry, folder: Path, outcome: RunOutcome, agreement: Agreement) -> None:
    """Log parameters, metrics per round, plots and the model's hash; register what the release policy allows."""
    proposal, table = outcome.proposal, outcome.released.table
    kept = table.federated_version
    record = registry.open_run(
        # A vertical run may have several tasks, each with metrics and a model of its own.
        proposal.run_id if kept is None else f"{proposal.run_id}-{table.task.replace('_', '-')}",
        tags={
            "agreement_hash": proposal.agreement_hash,
            "epoch_id": table.epoch_id,
            "method": proposal.settings.method,
            "model": table.model_digest or f"keyed:{_keyed_hash(outcome, agreement)}",
            "release_policy": agreement.release.policy,
        },
    )
    record.log_parameters({**_settings(proposal.settings, agreement), "task": table.task})
    for figures in table.rounds:
        loss = {} if figures.loss is None else {"loss": figures.loss}
        record.log_round(figures.number, {**loss, **figures.figures})
    if table.quality is not None:
        quality = table.quality.model_dump(include={"auc", "ks", "gini", "brier"})
        record.log_round(len(table.rounds), {f"holdout_{name}": value for name, value in quality.items()})
    for file in sorted(folder.iterdir()):
        if file.name != MODEL_FILE:
            record.log_artifact(f"plots/{file.name}" if file.suffix == ".svg" else file.name, file.read_bytes())
    name = f"{agreement.name}.{table.task}"
    if kept is not None:
        record.register_federated(name, outcome.released.to_json(), kept)
    elif outcome.artefact is not None:
        record.register_model(name, outcome.artefact, signatures=outcome.artefact_signatures)
    else:
        record.register_sealed(name, outcome.last_sealed_sum, outcome.model_report.hex())
    record.finish("finished")


def build_and_write(
    outcome: RunOutcome, agreement: Agreement, folder: Path, registry: Registry, *, created_at: str
) -> Mapping[str, str | float]:
    """Card, folder and registry entry of one finished run.

    Returns:
        What the closing event says.
    """
    card = build_card(evidence_of(outcome, agreement, created_at))
    write_run_folder(folder, outcome, card)
    register(registry, folder, outcome, agreement)
    quality = outcome.released.table.quality
    return {
        "folder": str(folder),
        "model": outcome.released.table.model_digest or outcome.released.table.federated_version or "",
        **({} if quality is None else {"auc": quality.auc, "ks": quality.ks, "brier": quality.brier}),
    }


def build_and_write_tasks(
    outcomes: Sequence[RunOutcome], agreement: Agreement, folder: Path, registry: Registry, *, created_at: str
) -> Mapping[str, str | float]:
    """Card, folder and registry entry of every task of a vertical run, each in a folder of its own.

    Returns:
        What the closing event says: the run's folder, the figures of its first task, and the bytes of all bodies that
        went in and out of the coordinator, by phase.
    """
    details = {}
    for outcome in outcomes:
        task = outcome.released.table.task
        details[task] = build_and_write(outcome, agreement, folder / task, registry, created_at=created_at)
    traffic = outcomes[0].traffic  # of the run as a whole
    moved = {
        f"{phase}_bytes": float(traffic.bytes_up.get(phase, 0) + traffic.bytes_down.get(phase, 0))
        for phase in sorted({*traffic.bytes_up, *traffic.bytes_down})
    }
    return {**next(iter(details.values())), **moved, "folder": str(folder)}


def _federated_model(card: ModelCard) -> FederatedModel | None:
    """What callers of federated scores need of a model that no party holds; None for another model."""
    evidence, table = card.evidence, card.evidence.table
    if table.federated_version is None or table.bias_log_odds is None:
        return None
    return FederatedModel(
        run_id=evidence.run_id,
        task=evidence.task,
        version=table.federated_version,
        bias=table.bias_log_odds,
        pdo_points=evidence.pdo_points,
        base_points=evidence.base_points,
        base_odds=evidence.base_odds,
        reason_codes=evidence.reason_codes,
    )


def _plots(outcome: RunOutcome) -> dict[str, bytes]:
    table = outcome.released.table
    plots = {}
    if table.roc:
        xs = [point.false_positive_rate for point in table.roc]
        ys = [point.true_positive_rate for point in table.roc]
        plots["roc.svg"] = roc_plot({"federated": (xs, ys)})
    if table.calibration:
        plots["calibration.svg"] = calibration_plot(table.calibration)
    if table.histogram:
        plots["scores.svg"] = histogram_plot(table.histogram)
    losses = [(figures.number, figures.loss) for figures in table.rounds if figures.loss is not None]
    if losses:
        plots["loss.svg"] = loss_plot(losses)
    return plots


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)
