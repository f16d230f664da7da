"""Partial scores of the feature holders: noisy, rounded, masked against each other, summed by the label holder (B5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protos.encrypted_gradient.encrypted_gradient_pb2 import HoldoutScores, MaskedScores
from protos.encrypted_gradient.errors import GradientBounds, MalformedGradient, TooFewContributors, WrongPass
from protos.encrypted_gradient.messages import expect_header, open_message
from protos.encrypted_gradient.parameters import SCORE_NOISE_SIGMA, SCORE_UNIT
from protos.encrypted_gradient.sampling import Rng, fresh_stream, gaussian
from protos.encrypted_gradient.session import SessionTerms, expect_pass
from protos.masked_sum.masking import add_pairwise
from protos.sealed_sum.canonical import encode
from protos.sealed_sum.keys import SigningKey, agree, derive
from protos.sealed_sum.secret import AgreementSecret, MaskSeed
from protos.sealed_sum.wire import sign

LARGEST_SCORE = 1024.0  # log-odds


def check_contributors(feature_holders: int, max_colluders: int, *, visible: bool) -> None:
    """Refuse a sum of partial scores in which the label holder and its colluders would see one term.

    Args:
        feature_holders: Members whose partial scores are summed.
        max_colluders: c of the agreement, the label holder counted.
        visible: `partial_scores_visible_to_label_holder` of the agreement.

    Raises:
        TooFewContributors: Fewer than two honest feature holders could remain, and the agreement does not allow it.
    """
    needed = max(max_colluders, 1) + 1  # one colluder is the label holder itself; two honest ones must remain
    if feature_holders < needed and not visible:
        raise TooFewContributors(
            f"expected at least {needed} feature holders, so that the label holder sees sums alone, found"
            f" {feature_holders}; add members or set partial_scores_visible_to_label_holder"
        )


def score_seed(
    secret: AgreementSecret,
    peer_public_key: bytes,
    *,
    member: str,
    peer: str,
    agreement_hash: bytes,
    session: bytes,
    pass_number: int,
    purpose: str = "partial-scores",
) -> MaskSeed:
    """The seed that two members share for one pass of one session; views that differ do not cancel (A3).

    Args:
        secret: This member's X25519 key of the epoch.
        peer_public_key: The peer's.
        member: This member's id.
        peer: The peer's id.
        agreement_hash: 32 bytes.
        session: What both mean, 32 bytes: `SessionTerms.digest()` between feature holders, a digest over all label
            holders' terms between these.
        pass_number: From 0.
        purpose: What it masks: `partial-scores`, `holdout-scores`, or `folded-sums/<feature holder>` between label
            holders (B6).
    """
    first, second = sorted((member, peer))
    info = encode("encrypted-gradient/seed", purpose, session, pass_number, first, second)
    return derive(agree(secret, peer_public_key, peer), MaskSeed, salt=agreement_hash, info=info)


def mask_scores(
    scores: NDArray[np.float64],
    terms: SessionTerms,
    pass_number: int,
    *,
    member: str,
    pairwise: Sequence[tuple[str, MaskSeed]],
    rng: Rng,
    identity: SigningKey,
    noise_sigma: float = SCORE_NOISE_SIGMA,
) -> bytes:
    """One pass's partial scores, ready to be sent; store the bytes and resend them.

    Fresh noise on every row and pass: without it T passes give the label holder T exact sums per row.

    Args:
        scores: Partial log-odds per aligned row, zero for rows without a partner; shape (rows,).
        terms: The session.
        pass_number: From 0.
        member: This member's id; ids are compared as text.
        pairwise: (peer, seed shared for this pass) of every other feature holder.
        rng: Source of the noise.
        identity: This member's identity key.
        noise_sigma: Standard deviation, log-odds.

    Raises:
        GradientBounds: A score is not finite or beyond +-1024.
    """
    expect_pass(pass_number, terms)
    rows = terms.shape.rows
    _check_scores(scores, rows)
    noisy = scores + gaussian(fresh_stream(rng), noise_sigma, rows)
    words = _masked(noisy, member, pairwise)
    message = MaskedScores(session=terms.digest(), feature_holder=member, words=words, **{"pass": pass_number})
    return sign(identity, "masked-scores", message)


def mask_holdout_scores(
    scores: NDArray[np.float64],
    terms: SessionTerms,
    *,
    member: str,
    pairwise: Sequence[tuple[str, MaskSeed]],
    identity: SigningKey,
) -> bytes:
    """Partial scores of the held-out rows, once a session, for the evaluation; store the bytes and resend them.

    Rounded to 1/64 and masked, but without noise: a model is judged by the scores that it serves, and a served score
    is just such a sum (section 3). No residual was ever computed on these rows.

    Args, errors: As `mask_scores`; the scores are those of the held-out rows, the seeds of purpose `holdout-scores`.
    """
    _check_scores(scores, terms.holdout_rows)
    words = _masked(scores, member, pairwise)
    return sign(identity, "holdout-scores", HoldoutScores(session=terms.digest(), feature_holder=member, words=words))


def _check_scores(scores: NDArray[np.float64], rows: int) -> None:
    if scores.shape != (rows,) or not np.all(np.abs(scores) <= LARGEST_SCORE):
        raise GradientBounds(f"expected {rows} partial scores within +-{LARGEST_SCORE:g}, found others")


def _masked(scores: NDArray[np.float64], member: str, pairwise: Sequence[tuple[str, MaskSeed]]) -> bytes:
    """Rounded to 1/64 and masked modulo 2^64."""
    words = np.rint(scores * SCORE_UNIT).astype(np.int64).view(np.uint64).copy()
    add_pairwise(words, member, pairwise)
    return words.astype("<u8").tobytes()


def sum_scores(
    messages: Sequence[tuple[str, bytes, bytes]], terms: SessionTerms, pass_number: int
) -> NDArray[np.float64]:
    """The sum of all feature holders' noisy partial scores, shape (rows,).

    Args:
        messages: (member id, identity key, signed message) of every feature holder of the session.
        terms: The session.
        pass_number: From 0.

    Raises:
        MalformedGradient: A message has another number of rows, or a feature holder's is missing.
        WrongPass: Another session, pass or member.
    """
    _check_everybody(messages, terms)
    rows = terms.shape.rows
    total = np.zeros(rows, dtype=np.uint64)
    for member, identity_key, data in messages:
        opened = open_message(
            MaskedScores, data, 8 * rows, domain="masked-scores", member=member, identity_key=identity_key
        )
        expect_header(opened, terms, pass_number, opened.feature_holder == member)
        if len(opened.words) != 8 * rows:
            raise MalformedGradient(f"expected {8 * rows} bytes of scores, found {len(opened.words)}")
        total += np.frombuffer(opened.words, dtype="<u8")
    return np.asarray(total.view(np.int64) / SCORE_UNIT)


def sum_holdout_scores(messages: Sequence[tuple[str, bytes, bytes]], terms: SessionTerms) -> NDArray[np.float64]:
    """The sum of all feature holders' partial scores on the held-out rows, shape (holdout_rows,).

    Args, errors: As `sum_scores`.
    """
    _check_everybody(messages, terms)
    rows = terms.holdout_rows
    total = np.zeros(rows, dtype=np.uint64)
    for member, identity_key, data in messages:
        opened = open_message(
            HoldoutScores, data, 8 * rows, domain="holdout-scores", member=member, identity_key=identity_key
        )
        if opened.session != terms.digest() or opened.feature_holder != member:
            raise WrongPass("expected hold-out scores of this session's feature holder, found others")
        if len(opened.words) != 8 * rows:
            raise MalformedGradient(f"expected {8 * rows} bytes of scores, found {len(opened.words)}")
        total += np.frombuffer(opened.words, dtype="<u8")
    return np.asarray(total.view(np.int64) / SCORE_UNIT)


def _check_everybody(messages: Sequence[tuple[str, bytes, bytes]], terms: SessionTerms) -> None:
    if {member for member, _, _ in messages} != set(terms.columns) or len(messages) != len(terms.columns):
        raise MalformedGradient("expected one message of every feature holder of the session, found others")
