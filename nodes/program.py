"""From agreement and proposal to the program that this member runs."""

from __future__ import annotations

from collections.abc import Mapping

from models.features import TrainingData
from models.horizontal import HorizontalProgram
from models.settings import HorizontalSettings
from policies.agreement import Agreement
from policies.proposal import MethodSettings, ProposalRefused, RunProposal


def horizontal_settings(agreement: Agreement, settings: MethodSettings) -> HorizontalSettings:
    """The public settings of a run: form and floors from the agreement, hyper-parameters from the proposal.

    Raises:
        ProposalRefused: The method trains nothing.
    """
    model, privacy = agreement.model, agreement.privacy
    if settings.method == "alignment" or settings.method == "vertical":  # noqa: PLR1714 - mypy narrows these
        raise ProposalRefused(
            f"Expected a training method among members of one role, found {settings.method}; propose the run with one."
        )
    return HorizontalSettings(
        method=settings.method,
        tower=model.tower,
        bins=model.bins,
        hidden_units=() if settings.target_parameters else model.hidden_units,
        target_parameters=settings.target_parameters,
        rounds=settings.rounds,
        local_epochs=settings.local_epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        optimiser=settings.optimiser,
        proximal_mu=settings.proximal_mu,
        server_learning_rate=settings.server_learning_rate,
        ridge=model.ridge,
        smoothness=model.smoothness,
        seed=settings.seed,
        clip=settings.clip,
        min_rows_per_column=privacy.min_rows_per_column,
        min_cell_count=privacy.min_cell_count,
        pdo_points=model.pdo_points,
        base_points=model.base_points,
        base_odds=model.base_odds,
    )


def horizontal_program(
    agreement: Agreement, proposal: RunProposal, data: TrainingData, member: str, weights: Mapping[str, int]
) -> HorizontalProgram:
    """This member's program for a horizontal run.

    Args:
        agreement: Feature contract, model form, floors.
        proposal: Task, method and cohort.
        data: This member's rows.
        member: Its id.
        weights: Public weight of every cohort member, a power of two (rule A7 ii).
    """
    role = agreement.task(proposal.task).label_role
    return HorizontalProgram(
        data,
        agreement.features_of(role),
        proposal.task,
        horizontal_settings(agreement, proposal.settings),
        member_number=proposal.cohort.index(member),
        weights=tuple(weights[name] for name in proposal.cohort),
    )
