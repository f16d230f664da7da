"""Horizontal runs: members of one role, other customers. Bins, training rounds, evaluation; each one sealed sum.

The methods differ in two places only: what a member computes between two training sums, and the step that all
members take on the opened sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Literal

import numpy as np
import torch

from models.artefact import Model
from models.basis import column_means, design_matrix, snap
from models.binning import choose_bins, histogram
from models.bundle import canonical_json
from models.evaluation import Evaluation, evaluate_histogram, score_histogram
from models.features import FeatureTerms, FloatArray, InputFeature, IntArray, TrainingData, TrainingDataError
from models.grid import feature_grid
from models.local_training import train_locally
from models.newton import NewtonState, advance, local_sums
from models.penalty import penalty_matrix, project_monotone
from models.program import ProgramError, RunResult, Statistics
from models.run_state import RunState
from models.scorecard import bin_rows, information_values
from models.server_step import ServerState, server_step
from models.settings import DEFAULT_PARAMETERS, HorizontalSettings
from models.sum_layouts import (
    LARGEST_LOSS,
    MAX_WEIGHT_RATIO_LOG2,
    bins_layout,
    cells_of,
    change_layout,
    evaluation_layout,
    newton_layout,
)
from models.towers import TowerShape, hidden_for_parameters, initial_parameters, log_odds
from models.weight_bucket import weight_log2_for_rows
from policies.errors import SettingsRefused
from protos.sealed_sum.layout import Layout, OpenedSum

__all__ = ["HorizontalProgram", "HorizontalSettings", "weight_log2_for_rows"]


class HorizontalProgram:
    """One member's side of a horizontal run (implements `models.program.Program`)."""

    def __init__(
        self,
        data: TrainingData,
        features: Sequence[FeatureTerms],
        task: str,
        settings: HorizontalSettings,
        *,
        member_number: int,
        weights: Sequence[int],
        provenance: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            data: This member's rows.
            features: The agreement's features, in its order; equal at all members.
            task: Name of the task.
            settings: Equal at all members.
            member_number: Place of this member in the sorted cohort, from 0.
            weights: Public weight of every member of the cohort, in that order; powers of two.
            provenance: Public facts for the artefact (agreement hash, run id), equal at all members.

        Raises:
            SettingsRefused: Weights are not powers of two, or too far apart.
            TrainingDataError: A column is absent, or there are more rows than `max_rows_per_member`.
        """
        if not features:
            raise SettingsRefused("expected at least one feature in the agreement, found none; add features")
        if any(weight < 1 or weight & (weight - 1) for weight in weights) or not 0 <= member_number < len(weights):
            raise SettingsRefused(
                "expected one power of two as weight for each member of the cohort, found others;"
                " build them with weight_log2_for_rows"
            )
        if max(weights) // min(weights) > 1 << MAX_WEIGHT_RATIO_LOG2:
            raise SettingsRefused(
                f"expected weights within a factor of 2^{MAX_WEIGHT_RATIO_LOG2}, found a wider spread;"
                " a member that small does not belong in this cohort"
            )
        if len(data.label) > settings.max_rows_per_member:
            raise TrainingDataError(
                f"expected at most {settings.max_rows_per_member} rows (max_rows_per_member), found"
                f" {len(data.label)}; raise the setting for the whole cohort or use fewer rows"
            )
        self._features = tuple(InputFeature.from_terms(terms) for terms in features)
        self._task = task
        self._settings = settings
        self._member_number = member_number
        self._weights = tuple(weights)
        self._provenance = dict(provenance or {})
        names = [feature.name for feature in self._features]
        self._training = data.selected(~data.holdout, names)
        self._training_label = data.label[~data.holdout].astype(np.float64)
        self._holdout = data.selected(data.holdout, names)
        self._holdout_label = data.label[data.holdout]
        self._state = RunState()
        self._design: FloatArray | None = None
        self._clipped_values = 0

    # What a sum is about

    @property
    def finished(self) -> bool:
        """True when no sum is left and `result` may be asked for."""
        return self._state.stage == "finished"

    @property
    def num_parameters(self) -> int:
        """Parameters of the tower; known after the first sum."""
        return self._shape().num_parameters

    @property
    def clipped_values(self) -> int:
        """Parameters whose change this member had to cut in its last contribution; never released."""
        return self._clipped_values

    def purpose(self) -> str:
        """What the next sum is for."""
        return self._state.stage

    def input_class(self) -> Literal["static", "step"]:
        """Training depends on the model; histograms depend on a member's rows alone, or on a fixed model."""
        return "step" if self._state.stage == "train" else "static"

    def layout(self) -> Layout:
        """Fields of the next sum."""
        match self._state.stage:
            case "bins":
                return bins_layout(self._features, self._settings.max_rows_per_member)
            case "train" if self._settings.method == "newton":
                return newton_layout(self.num_parameters, self._settings.max_rows_per_member)
            case "train":
                ratio = max(self._weights) // min(self._weights)
                return change_layout(self.num_parameters, self._settings.clip, len(self._weights), ratio)
            case "evaluate":
                return evaluation_layout(self._settings.max_rows_per_member)
            case "finished":
                raise ProgramError("expected a run with sums left, found a finished one; ask for its result")

    def model_digest(self) -> bytes:
        """SHA-256 of the model that the next contribution is computed on; zeros before there is one."""
        return self._state.model_digest()

    # What this member adds

    def contribution(self) -> dict[str, FloatArray]:
        """This member's values for the next sum; the same when asked again."""
        match self._state.stage:
            case "bins":
                pieces = [
                    histogram(feature_grid(feature), self._training[feature.name], self._training_label).ravel()
                    for feature in self._features
                ]
                return {"cells": np.concatenate(pieces).astype(np.float64)}
            case "train" if self._settings.method == "newton":
                sums = local_sums(self._training_design(), self._training_label, self._state.parameters)
                most = next(field.high for field in self.layout().fields if field.name == "loss")
                return {
                    "loss": np.array([min(sums.loss, most)]),
                    "gradient": sums.gradient,
                    "hessian": sums.hessian,
                }
            case "train":
                return self._change()
            case "evaluate":
                counts = score_histogram(self._holdout_log_odds(), self._holdout_label).astype(np.float64)
                return {"goods": counts[0], "bads": counts[1]}
            case "finished":
                raise ProgramError("expected a run with sums left, found a finished one; ask for its result")

    def _change(self) -> dict[str, FloatArray]:
        settings, start = self._settings, self._state.parameters
        clipped, loss = np.zeros_like(start), 0.0
        self._clipped_values = 0
        if len(self._training_label):
            inputs = torch.from_numpy(self._training_design())
            label = torch.from_numpy(self._training_label.astype(np.float32))
            trained = train_locally(
                self._shape(),
                torch.from_numpy(start.astype(np.float32)),
                inputs,
                label,
                penalty=torch.from_numpy(self._penalty_per_row()),
                rules=settings.local,
                shuffle_seed=(settings.seed, self._state.rounds, self._member_number),
            )
            change = np.asarray(trained.numpy(), dtype=np.float64) - start
            if not np.isfinite(change).all():
                raise TrainingDataError(
                    "expected local training to converge, found parameters that are not finite;"
                    f" lower learning_rate (now {settings.local_learning_rate:g}) for the whole cohort"
                )
            clipped = np.clip(change, -settings.clip, settings.clip)
            self._clipped_values = int(np.count_nonzero(clipped != change))
            scores = log_odds(self._shape(), start, self._training_design())
            losses = np.logaddexp(0.0, scores) - self._training_label * scores
            loss = min(float(losses.mean()), LARGEST_LOSS)
        own, smallest, largest = self._weights[self._member_number], min(self._weights), max(self._weights)
        share = own / largest
        return {
            "change": share * clipped,
            "weight": np.array([float(own // smallest)]),
            "loss": np.array([share * loss]),
        }

    # What everybody makes of the sum

    def absorb(self, opened: OpenedSum) -> Statistics:
        """Move on with the opened sum.

        Args:
            opened: The sum over the contributors, of `layout()`.

        Returns:
            Figures about the cohort as a whole, which may be released.

        Raises:
            ProgramError: The sum has another layout, or totals that no rows can add up to.
            TrainingDataError: The cohort's rows are too few.
            OneClassError: The cohort's hold-out has too few goods or bads to be evaluated.
        """
        if opened.layout != self.layout():
            raise ProgramError(f"expected the sum of the step {self.purpose()!r}, found one of another layout")
        match self._state.stage:
            case "bins":
                return self._absorb_bins(opened)
            case "train" if self._settings.method == "newton":
                return self._absorb_newton(opened)
            case "train":
                return self._absorb_change(opened)
            case _:
                return self._absorb_evaluation(opened)

    def _absorb_bins(self, opened: OpenedSum) -> Statistics:
        ends = np.cumsum(cells_of(self._features))[:-1]
        counts: list[IntArray] = [piece.reshape(2, -1) for piece in np.split(opened.integers["cells"], ends)]
        totals = {tuple(cells.sum(axis=1).tolist()) for cells in counts}
        if len(totals) != 1:
            raise ProgramError(
                "expected as many goods and bads in each feature's histogram, found different totals;"
                " a member counts its rows wrongly"
            )
        settings = self._settings
        bins = tuple(
            choose_bins(feature, feature_grid(feature), cells, settings.binning)
            for feature, cells in zip(self._features, counts, strict=True)
        )
        columns = sum(b.num_columns for b in bins)
        if not columns:
            raise TrainingDataError("expected a feature that varies, found constant ones only; check the source")
        goods, bads = totals.pop()
        hidden = settings.hidden_units
        if settings.tower == "neural" and not hidden:
            hidden = hidden_for_parameters(columns, settings.target_parameters or DEFAULT_PARAMETERS)
        shape = TowerShape(columns, hidden)
        intercept = float(snap(np.array([np.log(bads / goods)]))[0])
        start = initial_parameters(shape, intercept, settings.seed)
        newton = settings.method == "newton"
        self._state = RunState(
            stage="train",
            bins=bins,
            means=column_means(bins, counts),
            rows=goods + bads,
            bads=bads,
            hidden_units=hidden,
            search=NewtonState.start(start) if newton else None,
            server=None if newton else ServerState.start(start),
        )
        return {"rows": goods + bads, "bads": bads, "bad_rate": bads / (goods + bads), "columns": columns}

    def _absorb_newton(self, opened: OpenedSum) -> Statistics:
        state = self._state
        if state.search is None:
            raise ProgramError("expected a Newton search, found none; restore the run from its snapshot")
        search = advance(
            state.search,
            float(opened.values("loss")[0]),
            opened.values("gradient"),
            opened.values("hessian"),
            penalty=penalty_matrix(state.bins, self._settings.ridge, self._settings.smoothness),
            bins=state.bins,
        )
        rounds = state.rounds + 1
        done = search.converged or rounds >= self._settings.rounds
        self._move(replace(state, rounds=rounds, search=search, stage="evaluate" if done else "train"))
        return {
            "round": rounds,
            "loss": float(opened.values("loss")[0]) / state.rows,
            "step": search.step,
            "largest_change": float(np.abs(search.parameters - state.parameters).max()),
        }

    def _absorb_change(self, opened: OpenedSum) -> Statistics:
        state, settings = self._state, self._settings
        weight = float(opened.values("weight")[0])
        if state.server is None or weight < 1:
            raise ProgramError("expected changes of at least one member, found a sum without any weight")
        scale = (max(self._weights) / min(self._weights)) / weight
        mean_change = opened.values("change") * scale
        server = server_step(
            "adam" if settings.method == "fedadam" else "average",
            state.server,
            mean_change,
            settings.adam_learning_rate,
        )
        if settings.tower == "additive":
            projected = project_monotone(server.parameters, state.bins)
            server = replace(server, parameters=projected.astype(np.float32).astype(np.float64))
        rounds = state.rounds + 1
        done = rounds >= settings.rounds
        self._move(replace(state, rounds=rounds, server=server, stage="evaluate" if done else "train"))
        return {
            "round": rounds,
            "loss": float(opened.values("loss")[0]) * scale,
            "largest_change": float(np.abs(server.parameters - state.parameters).max()),
        }

    def _absorb_evaluation(self, opened: OpenedSum) -> Statistics:
        scores = np.stack([opened.integers["goods"], opened.integers["bads"]])
        found = evaluate_histogram(scores, self._settings.min_cell_count)
        self._move(replace(self._state, stage="finished", scores=scores))
        return {"auc": found.auc, "ks": found.ks, "gini": found.gini, "brier": found.brier}

    # What the run gave

    def snapshot(self) -> bytes:
        """The state, without any row."""
        return self._state.to_bytes(self._settings_digest())

    def restore(self, data: bytes) -> None:
        """Take up the state of `snapshot`, on the same rows, features and settings.

        Raises:
            ArtefactError: Not a snapshot.
            ProgramError: A snapshot of another run.
        """
        state = RunState.from_bytes(data, self._settings_digest())
        self._design = None
        self._state = state

    def model(self) -> Model:
        """The model as it stands; after the first sum."""
        state, settings = self._state, self._settings
        if state.means is None:
            raise ProgramError("expected a model, found a run without shared bins; absorb the first sum")
        return Model(
            task=self._task,
            method=settings.method,
            rounds=state.rounds,
            base_rate=state.bads / state.rows,
            bins=state.bins,
            shape=self._shape(),
            parameters=state.parameters,
            means=state.means,
            scale=settings.scale,
            provenance=self._provenance,
        )

    def result(self) -> RunResult:
        """What the run gave; the same, byte for byte, at every member.

        Raises:
            ProgramError: Sums are left.
        """
        state = self._state
        if not self.finished or state.scores is None:
            raise ProgramError(f"expected a finished run, found one before the step {state.stage!r}; go on with it")
        model = self.model()
        artefact = model.to_bytes()
        return RunResult(
            artefact=artefact,
            version=hashlib.sha256(artefact).hexdigest(),
            evaluation=evaluate_histogram(state.scores, self._settings.min_cell_count),
            scorecard=bin_rows(state.bins, model.column_contributions(), model.scale),
            information_values=information_values(state.bins),
            rounds=state.rounds,
        )

    def private_evaluation(self) -> Evaluation:
        """This member's own view of its own hold-out. It stays at the member.

        Raises:
            ProgramError: The model is not trained yet.
            OneClassError: The member's hold-out has goods only, or bads only.
        """
        if self._state.stage not in ("evaluate", "finished"):
            raise ProgramError("expected a trained model, found a run in training; go on with it")
        return evaluate_histogram(score_histogram(self._holdout_log_odds(), self._holdout_label), 0)

    # Inside

    def _shape(self) -> TowerShape:
        if not self._state.bins:
            raise ProgramError("expected shared bins, found none; absorb the first sum")
        return TowerShape(sum(b.num_columns for b in self._state.bins), self._state.hidden_units)

    def _settings_digest(self) -> str:
        public = [asdict(self._settings), [asdict(feature) for feature in self._features], self._task, self._weights]
        return hashlib.sha256(canonical_json(public).encode()).hexdigest()

    def _move(self, state: RunState) -> None:
        if state.stage != "train":
            self._design = None
        self._state = state

    def _training_design(self) -> FloatArray:
        """Cached: for Newton in float64 with a column of ones at the end, else in float32 for torch."""
        if self._design is None:
            if self._settings.method == "newton":
                design = design_matrix(self._state.bins, self._training)
                self._design = np.concatenate([design, np.ones((len(design), 1))], axis=1)
            else:
                self._design = design_matrix(self._state.bins, self._training, np.float32)
        return self._design

    def _penalty_per_row(self) -> FloatArray:
        """P over the cohort's training rows, float32: full for an additive tower, the diagonal for a neural one."""
        settings = self._settings
        if settings.tower == "additive":
            penalty = penalty_matrix(self._state.bins, settings.ridge, settings.smoothness)
        else:
            penalty = np.full(self.num_parameters, settings.ridge)
            penalty[-1] = 0.0
        return (penalty / self._state.rows).astype(np.float32)

    def _holdout_log_odds(self) -> FloatArray:
        design = design_matrix(self._state.bins, self._holdout)
        return log_odds(self._shape(), self._state.parameters, design)
