"""One vertical run at this node: the session that its members open, and its side's part in every pass.

A session lives in memory: the label holder's key is never stored, so a node that restarts has lost its sessions and
the run starts again. What must survive is how much the labels were asked (rules B4, B5); that is on disk before an
answer leaves. An answer that was given is kept and resent byte for byte: fresh noise on a second one could be averaged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.features import FloatArray, InputFeature
from models.vertical import FeatureTower, LabelTower, Tower, VerticalSettings
from models.vertical_basis import RoleBasis, fit_basis
from nodes.membership import Membership
from policies.errors import UserError
from policies.vertical_proposal import VerticalProposal
from protos.encrypted_gradient.feature_holder import (
    MaskedAnswer,
    PreparedColumns,
    QueryKey,
    multiply_residuals,
    open_folded,
    unmask,
)
from protos.encrypted_gradient.label_holder import LabelKey, announce_key, encrypt_residuals, fold_products
from protos.encrypted_gradient.parameters import MAX_CANDIDATE_PAIRS
from protos.encrypted_gradient.partial_scores import check_contributors, mask_scores, score_seed, sum_scores
from protos.encrypted_gradient.session import QueryBudget, SessionTerms, SlotShape
from protos.runs.v1 import vertical_pb2
from protos.sealed_sum.canonical import digest
from protos.sealed_sum.keys import public_key
from protos.sealed_sum.secret import AgreementSecret
from protos.sealed_sum.wire import open_signed, sign

MAX_ANNOUNCEMENT_BYTES = 1024
_ANNOUNCEMENT, _RECALIBRATION = "vertical-announcement", "vertical-recalibration"


class VerticalStepRefused(UserError):
    """A step that does not fit where this vertical run stands at this node."""


@dataclass(frozen=True, eq=False)
class AlignedRows:
    """A member's training rows in the order that all members of the run share.

    Attributes:
        columns: Values per feature name, shape (n_rows,).
        known: True where this member knows the entity.
        label: 1.0 = bad, at the label holder; None elsewhere.
        alignment_digest: Hash of the order, 32 bytes; equal at all members.
    """

    columns: Mapping[str, FloatArray] = field(repr=False)
    known: FloatArray = field(repr=False)
    label: FloatArray | None = field(repr=False)
    alignment_digest: bytes


def vertical_settings(membership: Membership, proposal: VerticalProposal) -> VerticalSettings:
    """The run's public settings: form and floors from the agreement, passes and pairs from the proposal."""
    model, privacy = membership.agreement.model, membership.agreement.privacy
    return VerticalSettings(
        bins=model.bins,
        ridge=model.ridge,
        smoothness=model.smoothness,
        min_rows_per_column=privacy.min_rows_per_column,
        passes=proposal.passes,
        pairs=proposal.pairs,
    )


class VerticalRun:
    """What both sides have in common: rows, basis, announcements, session terms."""

    def __init__(
        self, membership: Membership, proposal: VerticalProposal, rows: AlignedRows, rng: Callable[[int], bytes]
    ) -> None:
        """Fit the basis and announce this member's part."""
        agreement = membership.agreement
        check_contributors(
            len(proposal.feature_holders),
            agreement.privacy.max_colluders,
            visible=agreement.privacy.partial_scores_visible_to_label_holder,
        )
        self.proposal = proposal
        self.settings = vertical_settings(membership, proposal)
        self._membership = membership
        self._rows = rows
        self._rng = rng
        self._masking = AgreementSecret(rng(32))
        role = agreement.member(membership.member).role
        features = [InputFeature.from_terms(terms) for terms in agreement.features_of(role)]
        self.basis: RoleBasis = fit_basis(
            features,
            rows.columns,
            rows.known.astype(np.bool_),
            bins=self.settings.bins,
            min_rows=self.settings.min_rows_per_column,
        )
        self._levels = self.basis.levels(rows.columns)
        self._levels[rows.known == 0] = 0
        holds_labels = membership.member == proposal.label_holder
        if holds_labels and rows.label is None:
            raise VerticalStepRefused("Expected this node to hold the label of the task, found none; check its source.")
        message = vertical_pb2.VerticalAnnouncement(
            proposal_digest=hashlib.sha256(proposal.to_bytes()).digest(),
            member=membership.member,
            nonce=rng(32),
            masking_public_key=public_key(self._masking),
            rows=len(rows.known),
            alignment_digest=rows.alignment_digest,
            columns=0 if holds_labels else self.basis.num_columns,
            base_rate=float(rows.label.mean()) if holds_labels and rows.label is not None else 0.0,
        )
        self.announcement = sign(membership.identity, _ANNOUNCEMENT, message)
        self.terms: SessionTerms | None = None

    def identity_key(self, member: str) -> bytes:
        """A member's Ed25519 key from the agreement."""
        return self._membership.agreement.member(member).identity_key_bytes

    def open_session(self, announcements: Sequence[bytes]) -> SessionTerms:
        """Check everybody's announcement and fix the session's terms; the same bytes give the same terms everywhere.

        Raises:
            VerticalStepRefused: An announcement is missing, foreign, or about other rows.
            BadSignature: One is not signed by its member.
        """
        proposal = self.proposal
        if self.announcement not in announcements or len(announcements) != len(proposal.cohort):
            raise VerticalStepRefused("Expected one announcement of every member, this node's own among them (A10).")
        found: dict[str, vertical_pb2.VerticalAnnouncement] = {}
        for member, data in zip(proposal.cohort, announcements, strict=True):
            found[member] = open_signed(
                vertical_pb2.VerticalAnnouncement,
                data,
                MAX_ANNOUNCEMENT_BYTES,
                domain=_ANNOUNCEMENT,
                member=member,
                identity_key=self.identity_key(member),
            )
        own = found[self._membership.member]
        for member, other in found.items():
            same = (other.proposal_digest, other.rows, other.alignment_digest) == (
                own.proposal_digest,
                own.rows,
                own.alignment_digest,
            )
            if other.member != member or not same or (other.columns == 0) != (member == proposal.label_holder):
                raise VerticalStepRefused(
                    f"Expected {member} to announce the same run and the same aligned rows, found others; align first."
                )
        terms = SessionTerms(
            digest("encrypted-gradient/vertical-session", *announcements),
            proposal.label_holder,
            {member: found[member].columns for member in proposal.feature_holders},
            SlotShape.balanced(own.rows, {member: found[member].columns for member in proposal.feature_holders}),
            own.alignment_digest,
            proposal.passes + 1,
        )
        if self.terms is not None and self.terms.digest() != terms.digest():
            raise VerticalStepRefused("Expected the session that was opened before, found another; propose a new run.")
        self.terms = terms
        self.peers = {member: message.masking_public_key for member, message in found.items()}
        self.base_rate = min(max(found[proposal.label_holder].base_rate, 1e-4), 1.0 - 1e-4)
        return terms

    def opened(self) -> SessionTerms:
        """The session's terms.

        Raises:
            VerticalStepRefused: It is not open yet.
        """
        if self.terms is None:
            raise VerticalStepRefused("Expected an open session, found none; exchange the announcements first.")
        return self.terms


class FeatureRun(VerticalRun):
    """A feature holder's part."""

    _key: QueryKey | None = None
    _prepared: PreparedColumns | None = None
    _answer: MaskedAnswer | None = None
    tower: FeatureTower
    trained: Tower | None = None

    def take_key(self, gradient_key: bytes) -> None:
        """Check the label holder's key and start the tower."""
        terms = self.opened()
        self._key = QueryKey(gradient_key, terms, self.identity_key(terms.label_holder))
        self.tower = FeatureTower(
            self.basis,
            self._levels,
            self._rows.known,
            settings=self.settings,
            base_rate=self.base_rate,
            feature_holders=len(terms.columns),
        )

    def scores(self, pass_number: int, folded: bytes) -> bytes:
        """Take the last pass's step, then give this pass's masked scores; nothing in pass 0."""
        if pass_number == 0:
            return b""
        terms, member = self.opened(), self._membership.member
        if self._answer is None or self._prepared is None:
            raise VerticalStepRefused(f"Expected the products of pass {pass_number - 1} first, found a step to take.")
        sums = open_folded(
            folded,
            terms,
            pass_number - 1,
            feature_holder=member,
            columns=self._prepared.columns,
            label_identity_key=self.identity_key(terms.label_holder),
        )
        self.tower.absorb(unmask([sums], [self._answer.mask_sums]))
        self._answer = None
        pairwise = [
            (
                peer,
                score_seed(
                    self._masking,
                    self.peers[peer],
                    member=member,
                    peer=peer,
                    agreement_hash=self._membership.agreement_hash,
                    terms=terms,
                    pass_number=pass_number,
                ),
            )
            for peer in terms.columns
            if peer != member
        ]
        return mask_scores(
            self.tower.scores(),
            terms,
            pass_number,
            member=member,
            pairwise=pairwise,
            rng=self._rng,
            identity=self._membership.identity,
        )

    def products(self, pass_number: int, query: bytes) -> tuple[bytes, int]:
        """Masked products of one pass, and how many columns they have beyond the session's."""
        terms, member = self.opened(), self._membership.member
        if self._key is None or self._answer is not None:
            raise VerticalStepRefused("Expected the label holder's key and the last step first, found a new pass.")
        if self.settings.pairs and pass_number == self.settings.screening_pass:
            self.tower.propose_pairs()
        columns = self.tower.columns
        if self._prepared is None or self._prepared.columns != columns.shape[1]:
            self._prepared = PreparedColumns(
                columns, terms.shape, min_rows=self.settings.min_rows_per_column, known=self._prepared
            )
        self._answer = multiply_residuals(
            self._prepared,
            query,
            self._key,
            terms,
            pass_number,
            feature_holder=member,
            label_identity_key=self.identity_key(terms.label_holder),
            rng=self._rng,
            identity=self._membership.identity,
        )
        return self._answer.message, self._prepared.columns - terms.columns[member]

    def finish(self, recalibration: bytes) -> None:
        """Keep the trained tower, at the scale that the label holder found."""
        terms = self.opened()
        message = open_signed(
            vertical_pb2.VerticalRecalibration,
            recalibration,
            MAX_ANNOUNCEMENT_BYTES,
            domain=_RECALIBRATION,
            member=terms.label_holder,
            identity_key=self.identity_key(terms.label_holder),
        )
        if message.session != terms.digest() or not 0.1 < message.slope < 10.0:
            raise VerticalStepRefused("Expected this session's slope between 0.1 and 10, found another.")
        self.trained = self.tower.tower(message.slope)


class LabelRun(VerticalRun):
    """The label holder's part."""

    _key: LabelKey | None = None
    budget: QueryBudget
    tower: LabelTower
    trained: tuple[Tower, float] | None = None

    def announce_key(self, budget: QueryBudget) -> bytes:
        """Draw the session's key and start the tower."""
        terms = self.opened()
        if self._key is None:
            self._key = LabelKey.generate()
            self.budget = budget
            self.tower = LabelTower(
                self.basis,
                self._levels,
                np.zeros(0) if self._rows.label is None else self._rows.label,
                settings=self.settings,
                feature_holders=len(terms.columns),
            )
        return announce_key(self._key, terms, self._membership.identity)

    def residuals(self, pass_number: int, masked_scores: Mapping[str, bytes]) -> tuple[bytes, bytes]:
        """Refit, then this pass's encrypted residuals, or the recalibration after the last pass."""
        terms = self.opened()
        if self._key is None:
            raise VerticalStepRefused("Expected the session's key first, found a pass.")
        offset = np.zeros(terms.shape.rows)
        if pass_number:
            messages = [(member, self.identity_key(member), data) for member, data in sorted(masked_scores.items())]
            offset = sum_scores(messages, terms, pass_number)
        if self.settings.pairs and pass_number == self.settings.screening_pass:
            self.tower.refit(offset)
            self.tower.choose_own_pairs(offset)
        residuals = self.tower.refit(offset)
        identity = self._membership.identity
        if pass_number == self.proposal.passes:
            slope = self.tower.recalibrate(offset)
            self.trained = self.tower.tower()
            message = vertical_pb2.VerticalRecalibration(session=terms.digest(), slope=slope)
            return b"", sign(identity, _RECALIBRATION, message)
        return encrypt_residuals(self._key, terms, pass_number, residuals, self._rng, identity), b""

    def fold(
        self, pass_number: int, products: Mapping[str, bytes], extra: Mapping[str, int]
    ) -> tuple[dict[str, bytes], QueryBudget]:
        """One number per column for every feature holder, and the budget to store before they leave."""
        terms = self.opened()
        if self._key is None or set(products) != set(terms.columns):
            raise VerticalStepRefused("Expected the products of every feature holder, found others.")
        budget, answers = self.budget, {}
        for member in sorted(products):
            if extra.get(member, 0) > self._most_extra(pass_number):
                raise VerticalStepRefused(
                    f"Expected at most {self._most_extra(pass_number)} pairwise cells of {member} in pass"
                    f" {pass_number}, found {extra[member]} (rule B4)."
                )
            folded = fold_products(
                self._key,
                terms,
                pass_number,
                products[member],
                feature_holder=member,
                identity_key=self.identity_key(member),
                budget=budget,
                rng=self._rng,
                identity=self._membership.identity,
                candidates=extra.get(member, 0),
            )
            answers[member], budget = folded.message, folded.budget
        self.budget = budget
        return answers, budget

    def _most_extra(self, pass_number: int) -> int:
        settings = self.settings
        if not settings.pairs or pass_number < settings.screening_pass:
            return 0
        pairs = min(settings.candidate_pairs, MAX_CANDIDATE_PAIRS)
        if pass_number > settings.screening_pass:
            pairs = settings.pairs
        return pairs * (settings.pair_groups - 1) ** 2
