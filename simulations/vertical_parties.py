"""Three roles of one customer in one process: real keys, real ciphertexts, real messages; only the sockets are missing.

Every byte that a party hands to another goes through `Wire`, which counts it once when it leaves for the relay and once
for every recipient when it leaves the relay, as the coordinator's sockets would.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.features import FloatArray, InputFeature
from models.vertical import FeatureTower, LabelTower, Tower, VerticalSettings
from models.vertical_basis import RoleBasis, fit_basis
from protos.encrypted_gradient.feature_holder import (
    MaskedAnswer,
    PreparedColumns,
    QueryKey,
    multiply_residuals,
    open_folded,
    unmask,
)
from protos.encrypted_gradient.label_holder import LabelKey, announce_key, encrypt_residuals, fold_products
from protos.encrypted_gradient.partial_scores import check_contributors, mask_scores, score_seed, sum_scores
from protos.encrypted_gradient.session import QueryBudget, SessionTerms, SlotShape
from protos.sealed_sum.keys import SigningKey, public_key
from protos.sealed_sum.secret import AgreementSecret

AGREEMENT_HASH = hashlib.sha256(b"tallystick/vertical-benchmark").digest()


@dataclass
class Wire:
    """Counts bytes between the parties and the relay."""

    moved_bytes: int = 0

    def relayed(self, message: bytes, recipients: int) -> bytes:
        """Count one message on its way to the relay and on to each recipient."""
        self.moved_bytes += len(message) * (1 + recipients)
        return message


@dataclass(frozen=True, eq=False)
class Identity:
    """Keys of one member."""

    signing: SigningKey = field(default_factory=lambda: SigningKey.from_bytes(os.urandom(32)))
    masking: AgreementSecret = field(default_factory=lambda: AgreementSecret(os.urandom(32)))


@dataclass(frozen=True, eq=False)
class Directory:
    """Everybody's public keys, as the agreement and the key epoch give them."""

    signing: Mapping[str, bytes]
    masking: Mapping[str, bytes]

    @classmethod
    def of(cls, identities: Mapping[str, Identity]) -> Directory:
        """Public halves."""
        return cls(
            {member: identity.signing.public_bytes for member, identity in identities.items()},
            {member: public_key(identity.masking) for member, identity in identities.items()},
        )


class FeatureHolder:
    """One feature holder: its columns, its tower, its side of the protocol."""

    def __init__(
        self,
        member: str,
        identity: Identity,
        directory: Directory,
        features: Sequence[InputFeature],
        columns: Mapping[str, FloatArray],
        settings: VerticalSettings,
    ) -> None:
        """Fit the basis on the aligned training rows."""
        self.member = member
        self._identity = identity
        self._directory = directory
        self._settings = settings
        rows = len(next(iter(columns.values())))
        known = np.ones(rows, dtype=np.bool_)
        self.basis: RoleBasis = fit_basis(
            features, columns, known, bins=settings.bins, min_rows=settings.min_rows_per_column
        )
        self._levels = self.basis.levels(columns)
        self._known = known.astype(np.float64)
        self._prepared: PreparedColumns | None = None
        self._answer: MaskedAnswer | None = None

    def open_session(self, terms: SessionTerms, announced: bytes, base_rate: float) -> None:
        """Check the label holder's key and prepare the tower."""
        self._terms = terms
        self._key = QueryKey(announced, terms, self._directory.signing[terms.label_holder])
        self.tower = FeatureTower(
            self.basis,
            self._levels,
            self._known,
            settings=self._settings,
            base_rate=base_rate,
            feature_holders=len(terms.columns),
        )

    def masked_scores(self, pass_number: int) -> bytes:
        """This pass's noisy partial scores, masked against the other feature holders."""
        terms = self._terms
        pairwise = [
            (
                peer,
                score_seed(
                    self._identity.masking,
                    self._directory.masking[peer],
                    member=self.member,
                    peer=peer,
                    agreement_hash=AGREEMENT_HASH,
                    terms=terms,
                    pass_number=pass_number,
                ),
            )
            for peer in terms.columns
            if peer != self.member
        ]
        return mask_scores(
            self.tower.scores(),
            terms,
            pass_number,
            member=self.member,
            pairwise=pairwise,
            rng=os.urandom,
            identity=self._identity.signing,
            noise_sigma=self._settings.score_noise,
        )

    def products(self, query: bytes, pass_number: int) -> bytes:
        """Masked products of one pass."""
        columns = self.tower.columns
        if self._prepared is None or self._prepared.columns != columns.shape[1]:
            self._prepared = PreparedColumns(
                columns, self._terms.shape, min_rows=self._settings.min_rows_per_column, known=self._prepared
            )
        self._answer = multiply_residuals(
            self._prepared,
            query,
            self._key,
            self._terms,
            pass_number,
            feature_holder=self.member,
            label_identity_key=self._directory.signing[self._terms.label_holder],
            rng=os.urandom,
            identity=self._identity.signing,
        )
        return self._answer.message

    def absorb(self, folded: bytes, pass_number: int) -> None:
        """Unmask the label holder's answer and take the step."""
        if self._answer is None or self._prepared is None:
            raise RuntimeError("expected products before their sums")
        sums = open_folded(
            folded,
            self._terms,
            pass_number,
            feature_holder=self.member,
            columns=self._prepared.columns,
            label_identity_key=self._directory.signing[self._terms.label_holder],
        )
        self.tower.absorb(unmask([sums], [self._answer.mask_sums]))
        self._answer = None


@dataclass(frozen=True, eq=False)
class TrainedVertical:
    """What a vertical run gave.

    Attributes:
        towers: Per member, the label holder first.
        bias: Log-odds.
        passes: Gradient passes.
        budget: What the labels were asked.
        wire: Bytes moved.
    """

    towers: Mapping[str, Tower]
    bias: float
    passes: int
    budget: QueryBudget
    wire: Wire


def train_vertically(
    features: Mapping[str, Sequence[InputFeature]],
    columns: Mapping[str, FloatArray],
    label: FloatArray,
    settings: VerticalSettings,
    *,
    max_colluders: int = 1,
    partial_scores_visible: bool = False,
    budget: QueryBudget | None = None,
) -> TrainedVertical:
    """Train over roles whose members hold columns of the same rows, all protections on.

    Args:
        features: Features per role; the first role holds the label.
        columns: Values per feature name on the aligned training rows.
        label: 1.0 = bad, shape (n_rows,).
        settings: Public settings.
        max_colluders: c of the agreement.
        partial_scores_visible: The agreement's flag for runs with one feature holder (rule B5).
        budget: What earlier runs asked about the same labels.
    """
    label_role, *feature_roles = features
    check_contributors(len(feature_roles), max_colluders, visible=partial_scores_visible)
    identities = {role: Identity() for role in features}
    directory = Directory.of(identities)
    held = {role: {f.name: columns[f.name] for f in features[role]} for role in features}
    holders = [
        FeatureHolder(role, identities[role], directory, features[role], held[role], settings) for role in feature_roles
    ]
    rows = len(label)
    own = fit_basis(
        features[label_role],
        held[label_role],
        np.ones(rows, dtype=np.bool_),
        bins=settings.bins,
        min_rows=settings.min_rows_per_column,
    )
    tower = LabelTower(own, own.levels(held[label_role]), label, settings=settings, feature_holders=len(feature_roles))
    numbers = {holder.member: holder.basis.num_columns for holder in holders}
    # One more set of scores than gradients: the last one is for the label holder's own last fit.
    terms = SessionTerms(
        os.urandom(32),
        label_role,
        numbers,
        SlotShape.balanced(rows, numbers),
        hashlib.sha256(b"aligned by row number").digest(),
        settings.passes + 1,
    )
    wire = Wire()
    signing = identities[label_role].signing
    key = LabelKey.generate()
    announced = wire.relayed(announce_key(key, terms, signing), len(holders))
    for holder in holders:
        holder.open_session(terms, announced, tower.base_rate)
    budget = budget or QueryBudget(rows)
    offset = np.zeros(rows)
    for pass_number in range(settings.passes):
        if pass_number:
            offset = _summed_scores(holders, directory, terms, pass_number, wire)
        screening = bool(settings.pairs) and pass_number == settings.screening_pass
        if screening:
            tower.refit(offset)
            tower.choose_own_pairs(offset)
        residuals = tower.refit(offset)
        query = wire.relayed(encrypt_residuals(key, terms, pass_number, residuals, os.urandom, signing), len(holders))
        for holder in holders:
            if screening:
                holder.tower.propose_pairs()
            extra = holder.tower.columns.shape[1] - numbers[holder.member]
            products = wire.relayed(holder.products(query, pass_number), 1)
            folded = fold_products(
                key,
                terms,
                pass_number,
                products,
                feature_holder=holder.member,
                identity_key=directory.signing[holder.member],
                budget=budget,
                rng=os.urandom,
                identity=signing,
                candidates=extra,
            )
            budget = folded.budget
            holder.absorb(wire.relayed(folded.message, 1), pass_number)
    offset = _summed_scores(holders, directory, terms, settings.passes, wire)
    tower.refit(offset)
    slope = tower.recalibrate(offset)
    trained, bias = tower.tower()
    towers = {label_role: trained} | {holder.member: holder.tower.tower(slope) for holder in holders}
    return TrainedVertical(towers, bias, settings.passes, budget, wire)


def _summed_scores(
    holders: Sequence[FeatureHolder], directory: Directory, terms: SessionTerms, pass_number: int, wire: Wire
) -> FloatArray:
    messages = [
        (holder.member, directory.signing[holder.member], wire.relayed(holder.masked_scores(pass_number), 1))
        for holder in holders
    ]
    return sum_scores(messages, terms, pass_number)
