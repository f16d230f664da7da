"""What a finished run releases: one table of cohort-level figures, the same bytes at every member."""

from __future__ import annotations

from collections.abc import Sequence

from models.artefact import load_model
from models.program import RunResult
from models.released import calibration_bins, feature_shapes, histogram_bins, quality, roc_points
from nodes.store import OpenedRecord
from policies.agreement import Agreement
from policies.proposal import RunProposal
from policies.release import FeatureShape, OpenedSumRecord, ReleasedTable, RoundFigures
from protos.sealed_sum.dealing import Ready


def released_table(
    agreement: Agreement,
    proposal: RunProposal,
    ready: Ready,
    result: RunResult,
    openings: Sequence[OpenedRecord],
) -> ReleasedTable:
    """Build the table that this member signs.

    Cells under the minimum were merged before anything was computed from them (rule D2); counts per scorecard bin
    stay with the members, and WOE and share of a bin are left out where its cells are small.
    """
    evaluation = result.evaluation
    return ReleasedTable(
        agreement_hash=proposal.agreement_hash,
        epoch_id=ready.epoch_id.hex(),
        run_id=proposal.run_id,
        task=proposal.task,
        method=proposal.settings.method,
        model_digest=result.version if agreement.release.policy == "platform" else None,
        cohort=ready.cohort,
        weights_log2={member: weight.bit_length() - 1 for member, weight in ready.weights.items()},
        sums=tuple(_sum_record(opening, ready.cohort) for opening in openings),
        rounds=_rounds(openings),
        quality=quality(evaluation),
        calibration=calibration_bins(evaluation),
        roc=roc_points(evaluation),
        histogram=histogram_bins(evaluation),
        # Under release policy "members" the shapes would be the model itself.
        features=_shapes(agreement, proposal.task, result) if agreement.release.policy == "platform" else (),
    )


def _sum_record(opening: OpenedRecord, cohort: tuple[str, ...]) -> OpenedSumRecord:
    return OpenedSumRecord(
        k=opening.k,
        purpose=opening.purpose,
        input_class="static" if opening.input_class == "static" else "step",
        survivors=tuple(sorted(opening.survivors)),
        dropped=tuple(sorted(set(cohort) - set(opening.survivors))),
        chain=opening.chain.hex(),
    )


def _rounds(openings: Sequence[OpenedRecord]) -> tuple[RoundFigures, ...]:
    trained = [opening for opening in openings if opening.purpose == "train"]
    rounds = []
    for number, opening in enumerate(trained, start=1):
        figures = {name: value for name, value in opening.statistics.items() if isinstance(value, (int, float))}
        loss = figures.pop("loss", None)
        figures.pop("round", None)
        rounds.append(RoundFigures(number=number, k=opening.k, loss=loss, figures=figures))
    return tuple(rounds)


def _shapes(agreement: Agreement, task: str, result: RunResult) -> tuple[FeatureShape, ...]:
    role = agreement.task(task).label_role
    features = agreement.features_of(role)
    return feature_shapes(
        load_model(result.artefact),
        roles={feature.name: role for feature in features},
        units={feature.name: feature.unit for feature in features},
    )
