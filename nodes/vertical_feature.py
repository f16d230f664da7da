"""A feature holder's program in one task of a vertical run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from models.aligned_rows import AlignedRows
from models.feature_tower import FeatureTower
from models.features import InputFeature
from models.role_tower import RoleTower
from models.vertical import Tower
from models.vertical_basis import fit_basis
from nodes.vertical_session import (
    COLUMNS,
    OPENING,
    PRODUCTS,
    RECALIBRATION,
    ROWS,
    LabelRows,
    Party,
    Roster,
    VerticalStepRefused,
    announced_columns,
    report_tower,
    session_terms,
    task_session,
    unpacked_holdout,
)
from nodes.vertical_turns import Program, RoleSums, Turn
from protos.encrypted_gradient.feature_holder import (
    MaskedAnswer,
    PreparedColumns,
    QueryKey,
    multiply_residuals,
    open_folded,
    unmask,
)
from protos.encrypted_gradient.parameters import KEY_PRIMES, POLY_MODULUS_DEGREE
from protos.encrypted_gradient.partial_scores import mask_holdout_scores, mask_scores
from protos.encrypted_gradient.session import SessionTerms
from protos.encrypted_gradient.support import CheckedColumns
from protos.runs.v1 import vertical_pb2

_KEY_BYTES = 2 * len(KEY_PRIMES) * POLY_MODULUS_DEGREE * 8


@dataclass(frozen=True, eq=False)
class TrainedTower:
    """What a task leaves at a member.

    Attributes:
        tower: Its role's.
        version: Of the whole model.
    """

    tower: RoleTower
    version: str


@dataclass(eq=False)
class _Passes:
    """One label holder's session at this member."""

    terms: SessionTerms
    key: QueryKey
    prepared: PreparedColumns | None = None
    answer: MaskedAnswer | None = field(default=None, repr=False)


class FeatureProgram:
    """A feature holder's part in one task.

    Args:
        party: This member.
        task: The task.
    """

    def __init__(self, party: Party, task: str) -> None:
        self._party = party
        self._task = task
        self._roster: Roster = party.roster(task)
        self._sums: RoleSums = party.sums(task, self._roster)
        self._session = task_session(party, task)

    def run(self) -> Program[TrainedTower]:
        """Train, and return the role's tower.

        Raises:
            UserError, SealedSumError: Somebody's letter is refused, or the rows cannot be trained on.
        """
        yield from self._open()
        passes = self._party.proposal.settings.passes
        for number in range(passes):
            yield from self._pass(number)
        tower = yield from self._finish(passes)
        kept = RoleTower(self._task, self._roster.role, tower)
        version = yield from report_tower(self._party, self._task, self._roster, kept.to_bytes())
        return TrainedTower(kept, version)

    # -- before the first pass --

    def _open(self) -> Program[None]:
        party, roster, holders = self._party, self._roster, self._roster.label_holders
        letters = yield Turn({}, holders)
        rows = {holder: self._label_rows(holder, letters[holder]) for holder in holders}
        placed = party.rows.at(holders)
        training = placed.part({holder: each.training for holder, each in rows.items()})
        self._holdout = placed.part({holder: each.holdout for holder, each in rows.items()})
        settings, agreement = party.settings, party.membership.agreement
        features = [InputFeature.from_terms(terms) for terms in agreement.features_of(roster.role)]
        basis = yield from self._sums.run(
            fit_basis(
                features,
                training,
                bins=settings.bins,
                min_rows=settings.min_rows_per_column,
                max_colluders=settings.max_colluders,
            )
        )
        own = vertical_pb2.VerticalColumns(session=self._session, member=party.member, columns=basis.num_columns)
        announcement = party.letter(COLUMNS, own)
        others = tuple(member for member in roster.feature_holders if member != party.member)
        heard = yield Turn(dict.fromkeys((*holders, *others), announcement), others)
        heard = {**heard, party.member: announcement}
        columns = announced_columns(party, roster, heard, self._session)
        announcements = [letters[member] for member in holders] + [heard[member] for member in roster.feature_holders]
        terms = {
            holder: session_terms(party, holder, rows[holder], columns, announcements, self._session)
            for holder in holders
        }
        opened = yield Turn({}, holders)
        base_rates = set()
        self._passes: dict[str, _Passes] = {}
        for holder in holders:
            opening = party.opened(
                vertical_pb2.VerticalOpening,
                holder,
                opened[holder],
                domain=OPENING,
                session=terms[holder].digest(),
                size=_KEY_BYTES,
            )
            base_rates.add(opening.base_rate)
            key = QueryKey(opening.gradient_key, terms[holder], party.identity_key(holder))
            self._passes[holder] = _Passes(terms[holder], key)
        if len(base_rates) != 1 or not 0.0 < next(iter(base_rates)) < 1.0:
            raise VerticalStepRefused("Expected one share of bads between 0 and 1 of all label holders, found others.")
        levels = training.arrange(basis.levels(training.columns))
        self._basis = basis
        self._tower = yield from self._sums.run(
            FeatureTower.start(
                basis,
                levels,
                {holder: training.known(holder) for holder in holders},
                settings=settings,
                base_rate=next(iter(base_rates)),
                feature_roles=roster.feature_roles,
            )
        )

    def _label_rows(self, holder: str, letter: bytes) -> LabelRows:
        """A label holder's split, checked against this member's own where it knows the entity."""
        party = self._party
        message = party.opened(
            vertical_pb2.VerticalRows, holder, letter, domain=ROWS, session=self._session, size=1 << 20
        )
        held_out = unpacked_holdout(message, holder)
        order = party.rows.places[holder]
        if len(order) != len(held_out):
            raise VerticalStepRefused(
                f"Expected {len(order)} rows of {holder}, as aligned, found {len(held_out)}; align again."
            )
        known = order >= 0
        if np.any(held_out[known] != party.rows.holdout[order[known]]):
            raise VerticalStepRefused(
                f"Expected {holder} to hold out the rows that the agreement's key picks, found others; compare the "
                "releases of both nodes."
            )
        return LabelRows.of(held_out)

    # -- passes --

    def _pass(self, number: int) -> Program[None]:
        settings = self._party.settings
        scores = {} if number == 0 else self._masked_scores(number)
        queries = yield Turn(scores, self._roster.label_holders)
        if settings.pairs and number == settings.screening_pass:
            yield from self._sums.run(self._tower.propose_pairs())
        checked = CheckedColumns(self._tower.columns, settings.min_rows_per_column, settings.max_colluders)
        letters = {holder: self._products(holder, number, checked, queries[holder]) for holder in self._passes}
        folded = yield Turn(letters, self._roster.label_holders)
        gradient = self._gradient(number, folded)
        yield from self._sums.run(self._tower.absorb(gradient))

    def _masked_scores(self, number: int) -> dict[str, bytes]:
        party, others = self._party, self._roster.feature_holders
        return {
            holder: mask_scores(
                self._tower.scores(holder),
                each.terms,
                number,
                member=party.member,
                pairwise=party.seeds(others, each.terms.digest(), number, "partial-scores"),
                rng=party.rng,
                identity=party.membership.identity,
            )
            for holder, each in self._passes.items()
        }

    def _products(self, holder: str, number: int, checked: CheckedColumns, query: bytes) -> bytes:
        party, each = self._party, self._passes[holder]
        if each.prepared is None or each.prepared.columns != checked.num_columns:
            each.prepared = PreparedColumns(checked, holder, each.terms.shape, known=each.prepared)
        each.answer = multiply_residuals(
            each.prepared,
            query,
            each.key,
            each.terms,
            number,
            feature_holder=party.member,
            label_identity_key=party.identity_key(holder),
            rng=party.rng,
            identity=party.membership.identity,
        )
        message = vertical_pb2.VerticalProducts(
            session=each.terms.digest(),
            member=party.member,
            extra_columns=each.prepared.columns - each.terms.columns[party.member],
            masked_products=each.answer.message,
        )
        return party.letter(PRODUCTS, message)

    def _gradient(self, number: int, folded: Mapping[str, bytes]) -> np.ndarray:
        party, sums, masks = self._party, [], []
        for holder, each in self._passes.items():
            if each.answer is None or each.prepared is None:
                raise VerticalStepRefused("Expected products before their sums.")
            sums.append(
                open_folded(
                    folded[holder],
                    each.terms,
                    number,
                    feature_holder=party.member,
                    columns=each.prepared.columns,
                    label_identity_key=party.identity_key(holder),
                )
            )
            masks.append(each.answer.mask_sums)
            each.answer = None
        return unmask(sums, masks)

    # -- the end --

    def _finish(self, number: int) -> Program[Tower]:
        """Last scores of the training rows, scores of the held-out ones, and the label holders' scale."""
        party, holders = self._party, self._roster.label_holders
        yield Turn(self._masked_scores(number))
        heard = yield Turn(self._holdout_scores(number), holders)
        slopes = set()
        for holder, each in self._passes.items():
            message = party.opened(
                vertical_pb2.VerticalRecalibration,
                holder,
                heard[holder],
                domain=RECALIBRATION,
                session=each.terms.digest(),
            )
            slopes.add(message.slope)
        if len(slopes) != 1 or not 0.1 < next(iter(slopes)) < 10.0:
            raise VerticalStepRefused("Expected one slope between 0.1 and 10 of all label holders, found others.")
        return self._tower.tower(next(iter(slopes)))

    def _holdout_scores(self, number: int) -> dict[str, bytes]:
        party, holdout = self._party, self._holdout
        tower = self._tower.tower(1.0)
        scores = _scores_of_places(tower, holdout)
        return {
            holder: mask_holdout_scores(
                scores[holder],
                each.terms,
                member=party.member,
                pairwise=party.seeds(self._roster.feature_holders, each.terms.digest(), number, "holdout-scores"),
                identity=party.membership.identity,
            )
            for holder, each in self._passes.items()
        }


def _scores_of_places(tower: Tower, rows: AlignedRows) -> dict[str, np.ndarray]:
    """Partial scores in every label holder's order, zero where this member does not know the entity."""
    levels = rows.arrange(tower.basis.levels(rows.columns))
    return {holder: tower.scores(part) * rows.known(holder) for holder, part in levels.items()}
