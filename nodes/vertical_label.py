"""A label holder's program in one task of a vertical run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from models.evaluation import FINE_BINS, Evaluation, evaluate_histogram, score_histogram
from models.features import FloatArray, InputFeature
from models.label_tower import LabelTower
from models.role_totals import Totals, total_of
from models.role_tower import RoleTower
from models.vertical_basis import fit_basis
from nodes.vertical_feature import TrainedTower
from nodes.vertical_session import (
    OPENING,
    PRODUCTS,
    RECALIBRATION,
    ROWS,
    LabelRows,
    Party,
    Roster,
    VerticalStepRefused,
    announced_columns,
    packed_holdout,
    report_tower,
    session_terms,
    task_session,
    unpacked_holdout,
)
from nodes.vertical_turns import Program, Progress, RoleSums, Turn
from protos.encrypted_gradient.label_holder import (
    LabelKey,
    OtherLabelHolders,
    announce_key,
    encrypt_residuals,
    fold_products,
)
from protos.encrypted_gradient.parameters import MAX_CANDIDATE_PAIRS
from protos.encrypted_gradient.partial_scores import check_contributors, sum_holdout_scores, sum_scores
from protos.encrypted_gradient.session import QueryBudget, SessionTerms, products_bytes
from protos.runs.v1 import vertical_pb2
from protos.sealed_sum.canonical import digest


class LabelBudget(Protocol):
    """What one task's labels were asked, over all runs, on this node's disk (rules B4, B5)."""

    def asked(self) -> int:
        """Column sums answered so far."""
        ...

    def begin_pass(self) -> None:
        """Count one more pass, before anything of it leaves.

        Raises:
            VerticalStepRefused: The labels were asked in as many passes as they may be.
        """
        ...

    def charge(self, asked: int) -> None:
        """Count column sums, before they leave."""
        ...


@dataclass(frozen=True, eq=False)
class TrainedLabel(TrainedTower):
    """What a task leaves at a label holder.

    Attributes:
        bias: Log-odds of default that the towers are added to.
        evaluation: On the label role's hold-out.
        base_rate: Share of bads on its training rows.
    """

    bias: float
    evaluation: Evaluation
    base_rate: float


class LabelProgram:
    """A label holder's part in one task.

    Args:
        party: This member.
        task: The task.
        budget: What its labels were asked.
    """

    def __init__(self, party: Party, task: str, budget: LabelBudget) -> None:
        self._party = party
        self._task = task
        self._budget = budget
        self._roster: Roster = party.roster(task)
        self._sums: RoleSums = party.sums(task, self._roster)
        self._session = task_session(party, task)
        privacy = party.membership.agreement.privacy
        check_contributors(
            len(self._roster.feature_holders),
            privacy.max_colluders,
            visible=privacy.partial_scores_visible_to_label_holder,
        )

    def run(self) -> Program[TrainedLabel]:
        """Train, evaluate, and return the role's tower.

        Raises:
            UserError, SealedSumError: Somebody's letter is refused, or the rows cannot be trained on.
        """
        yield from self._open()
        passes = self._party.proposal.settings.passes
        offset: FloatArray = np.zeros(self._terms.shape.rows)
        for number in range(passes):
            if number:
                offset = yield from self._scores(number)
            yield from self._pass(number, offset)
            yield Turn(progress=Progress(self._task, number + 1, passes))
        previous, offset = offset, (yield from self._scores(passes))
        held = yield Turn({}, self._roster.feature_holders)
        # The scores have settled by now; their noise is fresh each time, so the mean of two has half its variance.
        settled = (previous + offset) / 2 if passes > 1 else offset
        yield from self._sums.run(self._tower.refit(settled))
        slope = yield from self._sums.run(self._tower.recalibrate(offset))
        last = vertical_pb2.VerticalRecalibration(session=self._terms.digest(), member=self._party.member, slope=slope)
        yield Turn(dict.fromkeys(self._roster.feature_holders, self._party.letter(RECALIBRATION, last)))
        tower, bias = self._tower.tower()
        kept = RoleTower(self._task, self._roster.role, tower)
        others = sum_holdout_scores(self._messages(held), self._terms)
        evaluation = yield from self._sums.run(self._evaluate(kept, bias + slope * others))
        version = yield from report_tower(self._party, self._task, self._roster, kept.to_bytes())
        return TrainedLabel(kept, version, bias, evaluation, self._tower.base_rate)

    # -- before the first pass --

    def _open(self) -> Program[None]:
        party, roster, settings = self._party, self._roster, self._party.settings
        own = party.rows.places[party.member]
        held_out = party.rows.holdout[own]
        rows = LabelRows.of(held_out)
        self._training, self._holdout = own[rows.training], own[rows.holdout]
        message = vertical_pb2.VerticalRows(
            session=self._session, member=party.member, rows=len(own), holdout=packed_holdout(held_out)
        )
        announcement = party.letter(ROWS, message)
        others = tuple(member for member in roster.label_holders if member != party.member)
        heard = yield Turn(dict.fromkeys((*others, *roster.feature_holders), announcement), others)
        heard = {**heard, party.member: announcement}
        rows_of = {party.member: rows}
        for member in others:
            opened = party.opened(
                vertical_pb2.VerticalRows, member, heard[member], domain=ROWS, session=self._session, size=1 << 20
            )
            rows_of[member] = LabelRows.of(unpacked_holdout(opened, member))
        agreement = party.membership.agreement
        features = [InputFeature.from_terms(terms) for terms in agreement.features_of(roster.role)]
        training = party.rows.at((party.member,)).part({party.member: rows.training})
        basis = yield from self._sums.run(
            fit_basis(
                features,
                training,
                bins=settings.bins,
                min_rows=settings.min_rows_per_column,
                max_colluders=settings.max_colluders,
            )
        )
        label = party.rows.own.labels[self._task]
        self._tower = yield from self._sums.run(
            LabelTower.start(
                basis,
                basis.levels(training.columns)[self._training],
                label[self._training],
                settings=settings,
                feature_holders=len(roster.feature_holders),
            )
        )
        letters = yield Turn({}, roster.feature_holders)
        columns = announced_columns(party, roster, letters, self._session)
        announcements = [heard[m] for m in roster.label_holders] + [letters[m] for m in roster.feature_holders]
        terms = {
            holder: session_terms(party, holder, rows_of[holder], columns, announcements, self._session)
            for holder in roster.label_holders
        }
        self._terms: SessionTerms = terms[party.member]
        # What the masks between label holders are bound to: everybody's terms, which all of them know (B6).
        self._between = digest("vertical/labels", *(terms[holder].digest() for holder in roster.label_holders))
        self._key = LabelKey.generate()
        self._queries = QueryBudget(self._terms.shape.rows, asked=self._budget.asked())
        opening = vertical_pb2.VerticalOpening(
            session=self._terms.digest(),
            member=party.member,
            base_rate=self._tower.base_rate,
            gradient_key=announce_key(self._key, self._terms, party.membership.identity),
        )
        yield Turn(dict.fromkeys(roster.feature_holders, party.letter(OPENING, opening)))

    # -- passes --

    def _messages(self, letters: Mapping[str, bytes]) -> list[tuple[str, bytes, bytes]]:
        return [(member, self._party.identity_key(member), letters[member]) for member in self._roster.feature_holders]

    def _scores(self, number: int) -> Program[FloatArray]:
        letters = yield Turn({}, self._roster.feature_holders)
        return sum_scores(self._messages(letters), self._terms, number)

    def _pass(self, number: int, offset: FloatArray) -> Program[None]:
        party, settings, holders = self._party, self._party.settings, self._roster.feature_holders
        if settings.pairs and number == settings.screening_pass:
            yield from self._sums.run(self._tower.refit(offset))
            yield from self._sums.run(self._tower.choose_own_pairs(offset))
        residuals = yield from self._sums.run(self._tower.refit(offset))
        self._budget.begin_pass()
        query = encrypt_residuals(self._key, self._terms, number, residuals, party.rng, party.membership.identity)
        letters = yield Turn(dict.fromkeys(holders, query), holders)
        yield Turn({member: self._folded(number, member, letters[member]) for member in holders})

    def _folded(self, number: int, member: str, letter: bytes) -> bytes:
        """One number per column for a feature holder; what was asked is on disk before it leaves."""
        party = self._party
        most = self._most_extra(number)
        size = products_bytes(self._terms.shape, self._terms.columns[member] + most)
        message = party.opened(
            vertical_pb2.VerticalProducts,
            member,
            letter,
            domain=PRODUCTS,
            session=self._terms.digest(),
            size=size + 1024,
        )
        if message.extra_columns > most:
            raise VerticalStepRefused(
                f"Expected at most {most} pairwise cells of {member} in pass {number}, found {message.extra_columns}"
                " (rule B4)."
            )
        purpose = f"folded-sums/{member}"
        pairwise = party.seeds(self._roster.label_holders, self._between, number, purpose)
        folded = fold_products(
            self._key,
            self._terms,
            number,
            message.masked_products,
            feature_holder=member,
            identity_key=party.identity_key(member),
            budget=self._queries,
            rng=party.rng,
            identity=party.membership.identity,
            candidates=message.extra_columns,
            others=OtherLabelHolders(pairwise, party.membership.agreement.privacy.max_colluders),
        )
        self._queries = folded.budget
        self._budget.charge(folded.budget.asked)
        return folded.message

    def _most_extra(self, number: int) -> int:
        settings = self._party.settings
        if not settings.pairs or number < settings.screening_pass:
            return 0
        pairs = settings.pairs
        if number == settings.screening_pass:
            pairs = min(settings.candidate_pairs, MAX_CANDIDATE_PAIRS)
        return pairs * (settings.pair_groups - 1) ** 2

    # -- the end --

    def _evaluate(self, kept: RoleTower, others: FloatArray) -> Totals[Evaluation]:
        """Figures of the label role's hold-out, from histograms of the scores that would be served."""
        columns = {name: values[self._holdout] for name, values in self._party.rows.own.columns.items()}
        score = others + kept.scores(columns)
        label = self._party.rows.own.labels[self._task][self._holdout]
        (counts,) = yield from total_of("evaluation", [score_histogram(score, label)])
        return evaluate_histogram(counts.reshape(2, FINE_BINS), self._party.membership.agreement.privacy.min_cell_count)
