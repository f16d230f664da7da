"""What a label holder releases of one task of a vertical run: cohort-level figures, no tower."""

from __future__ import annotations

from models.released import calibration_bins, histogram_bins, quality, roc_points
from nodes.vertical_label import TrainedLabel
from policies.proposal import RunProposal
from policies.release import ReleasedTable
from protos.sealed_sum.dealing import Ready


def vertical_table(proposal: RunProposal, ready: Ready, task: str, trained: TrainedLabel) -> ReleasedTable:
    """The table that every label holder of the task signs, the same bytes at all of them.

    Small cells were merged before anything was computed from them (rule D2). Shapes of features would be the towers
    themselves, which stay in their roles.
    """
    evaluation = trained.evaluation
    return ReleasedTable(
        agreement_hash=proposal.agreement_hash,
        epoch_id=ready.epoch_id.hex(),
        run_id=proposal.run_id,
        task=task,
        method=proposal.settings.method,
        cohort=ready.cohort,
        quality=quality(evaluation),
        calibration=calibration_bins(evaluation),
        roc=roc_points(evaluation),
        histogram=histogram_bins(evaluation),
        federated_version=trained.version,
        bias_log_odds=trained.bias,
    )
