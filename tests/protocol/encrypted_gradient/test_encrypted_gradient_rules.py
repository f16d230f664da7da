"""Rules B1, B3 to B6 of vertical training, each named, with real keys and ciphertexts."""

import os
from dataclasses import replace

import numpy as np
import pytest

from protos.encrypted_gradient import encrypted_gradient_pb2 as wire_types
from protos.encrypted_gradient.errors import (
    ColumnBetraysRows,
    EncryptedGradientError,
    GradientBounds,
    MalformedGradient,
    QueryBudgetExceeded,
    TooFewContributors,
    WrongPass,
)
from protos.encrypted_gradient.feature_holder import PreparedColumns, QueryKey, unmask
from protos.encrypted_gradient.label_holder import LabelKey, OtherLabelHolders, announce_key
from protos.encrypted_gradient.packing import pack, pack_answers, unpack, unpack_answers
from protos.encrypted_gradient.parameters import (
    ANSWER_PRIMES,
    GRADIENT_SCALE,
    MAX_PASSES,
    PLAIN_MODULUS,
    POLY_MODULUS_DEGREE,
    PRIMES,
)
from protos.encrypted_gradient.partial_scores import (
    check_contributors,
    mask_holdout_scores,
    mask_scores,
    score_seed,
    sum_holdout_scores,
    sum_scores,
)
from protos.encrypted_gradient.session import QueryBudget, SessionTerms, SlotShape, gaussian_mu
from protos.encrypted_gradient.support import CheckedColumns, check_column_bounds, check_residual_bounds
from protos.sealed_sum.errors import BadSignature
from protos.sealed_sum.keys import SigningKey, public_key
from protos.sealed_sum.sealed_sum_pb2 import Signed
from protos.sealed_sum.secret import AgreementSecret, MaskSeed
from protos.sealed_sum.wire import sign


@pytest.mark.parametrize(("rows", "columns", "repeat"), [(60, 1, 1), (5000, 7, 3), (2731, 6, 3), (9000, 5, 16)])
def test_gradient_without_label_noise_is_exact_whatever_the_shape(make_pair, rows, columns, repeat):
    pair = make_pair(rows, columns, repeat)
    assert np.array_equal(pair.gradient(), pair.expected())


def test_gradient_is_exact_with_uncached_plaintexts_and_columns_of_zeros_in_a_chunk(make_pair):
    pair = make_pair(9000, 3, 1)
    pair.levels[:8192] = 0
    prepared = PreparedColumns(pair.checked(), "lender", pair.shape, max_cached=2)
    assert np.array_equal(pair.gradient(prepared=prepared), pair.expected())


def test_a_label_holder_none_of_whose_rows_are_known_gets_masks_alone(make_pair):
    pair = make_pair(300, 2)
    known, pair.levels = pair.levels, np.zeros_like(pair.levels)
    elsewhere = CheckedColumns({"lender": pair.levels, "other": known, "third": known}, 50)
    prepared = PreparedColumns(elsewhere, "lender", pair.shape)
    assert np.array_equal(pair.gradient(prepared=prepared), np.zeros(2))


def test_gradient_of_extreme_residuals_and_columns_is_exact(make_pair):
    pair = make_pair(20_000, 2, 2)
    pair.levels[:] = 127
    pair.residuals[:] = -1.0
    assert np.array_equal(pair.gradient(), np.full(2, -20_000.0))


# ---- B1: one number per column ----


def test_b1_an_answer_has_room_for_one_number_per_column_and_for_no_slots():
    fields = {field.name: field for field in wire_types.FoldedSums.DESCRIPTOR.fields}
    assert set(fields) == {"session", "pass", "label_holder", "feature_holder", "column_sums"}
    assert [name for name, field in fields.items() if field.is_repeated] == ["column_sums"]


@pytest.mark.parametrize("count", [3, 5, POLY_MODULUS_DEGREE])
def test_b1_a_feature_holder_refuses_an_answer_of_another_length_than_its_columns(make_pair, count):
    pair = make_pair(200, 4)
    message = wire_types.FoldedSums(
        session=pair.terms.digest(), label_holder="lender", feature_holder="shipper", column_sums=[1] * count
    )
    with pytest.raises(MalformedGradient, match=r"one sum for each|at most"):
        pair.open(sign(pair.label_identity, "folded-sums", message))


def test_b1_slots_that_were_not_folded_would_give_the_labels_away():
    # Positive control of the rule: what a feature holder could do with slots (examples: 99.7 % of the labels).
    generator = np.random.default_rng(3)
    labels = generator.random(20) < 0.3
    columns = generator.integers(0, 128, (20, 60))
    residuals = np.rint((0.3 - labels) * 511)
    slot = columns.T @ residuals  # one slot of every column: sums over the 20 rows that share the slot
    found = np.linalg.lstsq(columns.T.astype(float), slot, rcond=None)[0] < 0
    assert np.array_equal(found, labels)


def test_b1_sums_that_could_wrap_are_refused_at_both_sides():
    check_column_bounds(np.full((500_000, 1), 127, dtype=np.uint8))
    with pytest.raises(GradientBounds, match="below half"):
        check_column_bounds(np.full((530_000, 1), 127, dtype=np.uint8))
    check_residual_bounds(np.full(500_000, -511))
    with pytest.raises(GradientBounds, match="below half"):
        check_residual_bounds(np.full(530_000, -511))
    with pytest.raises(GradientBounds, match=r"\+-511"):
        check_residual_bounds(np.array([512]))
    with pytest.raises(GradientBounds, match=r"\[0, 127\]"):
        check_column_bounds(np.array([[128]], dtype=np.uint8))


def test_b1_the_worst_case_of_150_000_rows_stays_within_the_bounds():
    check_residual_bounds(np.full(150_000, 511), noise=16 * 2 * GRADIENT_SCALE)
    check_column_bounds(np.full((150_000, 1), 127, dtype=np.uint8))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.01])
def test_b1_a_label_holder_refuses_residuals_that_are_none(make_pair, value):
    pair = make_pair(200, 2)
    pair.residuals[3] = value
    with pytest.raises(GradientBounds, match="residuals p - y"):
        pair.encrypt()


# ---- B3: columns that would betray rows, and label noise ----


def test_b3_a_column_touched_by_few_rows_is_refused_before_anything_is_multiplied(make_pair):
    pair = make_pair(2000, 3)
    pair.levels[:, 1] = 0
    pair.levels[:49, 1] = 127
    with pytest.raises(ColumnBetraysRows, match="found 1 columns"):
        pair.prepared()
    pair.levels[49, 1] = 127
    pair.prepared()


def test_b3_a_column_whose_weight_lies_on_few_rows_is_refused():
    levels = np.ones((500, 1), dtype=np.uint8)
    levels[:4] = 127
    assert levels.astype(int).sum() ** 2 / (levels.astype(int) ** 2).sum() < 20
    with pytest.raises(ColumnBetraysRows):
        CheckedColumns({"lender": levels}, 50)


def test_b3_the_agreement_cannot_lower_the_support_below_twenty_rows():
    levels = np.zeros((500, 1), dtype=np.uint8)
    levels[:19] = 127
    with pytest.raises(ColumnBetraysRows):
        CheckedColumns({"lender": levels}, 1)


def test_b3_support_counts_over_all_label_holders_but_not_on_one_that_may_collude():
    half = np.zeros((500, 1), dtype=np.uint8)
    half[:60] = 127
    few = np.zeros((500, 1), dtype=np.uint8)
    few[:30] = 127
    CheckedColumns({"alpha": half, "lender": half, "omega": few}, 50)
    with pytest.raises(ColumnBetraysRows):
        CheckedColumns({"alpha": half, "lender": few, "omega": np.zeros_like(few)}, 50)


def test_b3_every_answer_carries_label_noise_of_two_rows(make_pair):
    pair = make_pair(3000, 400, 16, noisy=True)
    noise = pair.gradient() - pair.expected()
    assert 1.7 < noise.std() < 2.3
    assert abs(noise.mean()) < 0.5
    assert len(np.unique(noise)) >= 395  # of 400 draws on a grid of 1/64897, two fall together now and then


def test_b3_a_second_answer_to_one_pass_would_average_the_noise_away_and_is_refused(make_pair):
    pair = make_pair(3000, 2, noisy=True)
    query = pair.encrypt()
    pair.fold(pair.multiply(query).message)
    with pytest.raises(WrongPass, match="resend the stored answer"):
        pair.fold(pair.multiply(query).message)


# ---- B4 and B5: how much may be asked ----


def test_b4_the_query_budget_is_a_tenth_of_the_rows_without_label_noise_and_all_of_them_with_it():
    assert QueryBudget(1000).charge("shipper", 0, 1000).asked == 1000
    with pytest.raises(QueryBudgetExceeded, match="at most 1000 column sums"):
        QueryBudget(1000).charge("shipper", 0, 1001)
    with pytest.raises(QueryBudgetExceeded, match="at most 100 column sums"):
        QueryBudget(1000, noisy=False).charge("shipper", 0, 101)


def test_b4_the_budget_counts_all_feature_holders_and_passes(make_pair):
    pair = make_pair(200, 4)
    pair.budget = QueryBudget(200, asked=198)
    with pytest.raises(QueryBudgetExceeded):
        pair.fold(pair.multiply(pair.encrypt()).message)


def test_b4_the_privacy_parameter_is_not_one_that_a_card_may_call_strong():
    assert round(gaussian_mu(8, 12, 2.0), 1) == 4.9


def test_b5_more_than_eight_passes_over_the_same_labels_are_refused():
    budget = QueryBudget(10_000)
    for number in range(MAX_PASSES):
        budget = budget.charge("shipper", number, 10)
    with pytest.raises(QueryBudgetExceeded, match="at most 8 passes"):
        budget.charge("shipper", MAX_PASSES, 10)
    with pytest.raises(QueryBudgetExceeded, match="at most 8 passes"):
        SessionTerms(bytes(32), "lender", {"shipper": 1}, SlotShape(10, 1), bytes(32), 9)


def test_b5_one_feature_holder_needs_the_flag_that_shows_its_partial_scores():
    check_contributors(1, 1, visible=True)
    with pytest.raises(TooFewContributors, match="partial_scores_visible_to_label_holder"):
        check_contributors(1, 1, visible=False)
    check_contributors(2, 1, visible=False)
    with pytest.raises(TooFewContributors):
        check_contributors(2, 2, visible=False)


class Scorers:
    """Feature holders that share seeds by X25519."""

    def __init__(self, members, rows):
        self.secrets = {member: AgreementSecret(os.urandom(32)) for member in members}
        self.identities = {member: SigningKey.from_bytes(os.urandom(32)) for member in members}
        self.terms = SessionTerms(
            bytes(32), "lender", dict.fromkeys(members, 3), SlotShape(rows, 1), bytes(32), passes=8
        )
        self.rows = rows

    def pairwise(self, member, terms, pass_number, purpose):
        return [
            (
                peer,
                score_seed(
                    self.secrets[member],
                    public_key(secret),
                    member=member,
                    peer=peer,
                    agreement_hash=bytes(32),
                    session=terms.digest(),
                    pass_number=pass_number,
                    purpose=purpose,
                ),
            )
            for peer, secret in self.secrets.items()
            if peer != member
        ]

    def message(self, member, scores, pass_number=0, *, terms=None, **changes):
        terms = terms or self.terms
        return mask_scores(
            scores,
            terms,
            pass_number,
            member=member,
            pairwise=self.pairwise(member, terms, pass_number, "partial-scores"),
            rng=os.urandom,
            identity=self.identities[member],
            **changes,
        )

    def signed(self, messages):
        return [(member, self.identities[member].public_bytes, data) for member, data in messages.items()]


def test_b5_partial_scores_sum_up_and_each_alone_is_noise():
    rows = 4000
    scorers = Scorers(["payer", "shipper", "trader"], rows)
    scores = {member: np.linspace(-3, 3, rows) * (1 + at) for at, member in enumerate(scorers.secrets)}
    messages = {m: scorers.message(m, x, noise_sigma=0.0) for m, x in scores.items()}
    total = sum_scores(scorers.signed(messages), scorers.terms, 0)
    assert np.abs(total - sum(scores.values())).max() <= 1.5 / 64
    alone = wire_types.MaskedScores.FromString(Signed.FromString(messages["payer"]).body)
    words = np.frombuffer(alone.words, dtype="<u8")
    assert abs((words >> np.uint64(63)).mean() - 0.5) < 0.05
    assert abs(np.corrcoef(words.astype(float), scores["payer"])[0, 1]) < 0.1


def test_b5_every_pass_carries_fresh_noise_of_half_a_log_odd_on_every_row():
    scorers = Scorers(["payer"], 20_000)
    sums = [
        sum_scores(scorers.signed({"payer": scorers.message("payer", np.zeros(20_000), k)}), scorers.terms, k)
        for k in (0, 1)
    ]
    assert all(0.48 < noise.std() < 0.52 for noise in sums)
    assert abs(np.corrcoef(sums[0], sums[1])[0, 1]) < 0.05
    assert np.array_equal(sums[0] * 64, np.rint(sums[0] * 64))


def test_b5_members_that_were_shown_different_sessions_do_not_cancel():
    rows = 1000
    scorers = Scorers(["payer", "shipper"], rows)
    other = SessionTerms(
        bytes(31) + b"x", "lender", dict.fromkeys(scorers.secrets, 3), scorers.terms.shape, bytes(32), 8
    )
    signed = scorers.signed(
        {
            "payer": scorers.message("payer", np.zeros(rows)),
            "shipper": scorers.message("shipper", np.zeros(rows), terms=other),
        }
    )
    with pytest.raises(WrongPass):
        sum_scores(signed, scorers.terms, 0)


def test_b5_a_sum_that_lacks_a_feature_holder_is_refused():
    scorers = Scorers(["payer", "shipper"], 100)
    signed = scorers.signed({"payer": scorers.message("payer", np.zeros(100))})
    with pytest.raises(MalformedGradient, match="every feature holder"):
        sum_scores(signed, scorers.terms, 0)


def test_b5_holdout_scores_sum_up_without_noise_and_each_alone_is_noise():
    rows = 3000
    scorers = Scorers(["payer", "shipper", "trader"], 100)
    scorers.terms = replace(scorers.terms, holdout_rows=rows)
    scores = {member: np.linspace(-3, 3, rows) * (1 + at) for at, member in enumerate(scorers.secrets)}
    messages = {
        member: mask_holdout_scores(
            own,
            scorers.terms,
            member=member,
            pairwise=scorers.pairwise(member, scorers.terms, 5, "holdout-scores"),
            identity=scorers.identities[member],
        )
        for member, own in scores.items()
    }
    total = sum_holdout_scores(scorers.signed(messages), scorers.terms)
    assert np.abs(total - sum(scores.values())).max() <= 1.5 / 64
    alone = wire_types.HoldoutScores.FromString(Signed.FromString(messages["payer"]).body)
    words = np.frombuffer(alone.words, dtype="<u8")
    assert abs((words >> np.uint64(63)).mean() - 0.5) < 0.05
    with pytest.raises(WrongPass):
        sum_holdout_scores(scorers.signed(messages), replace(scorers.terms, alignment_digest=bytes(31) + b"x"))
    with pytest.raises(MalformedGradient):
        sum_scores(scorers.signed(messages), scorers.terms, 5)


# ---- B6: several label holders ----


def test_b6_answers_of_three_label_holders_are_uniform_alone_and_right_together(make_pair):
    names = ["alpha", "lender", "omega"]
    seeds = {frozenset(pair): os.urandom(32) for pair in (names[:2], names[1:], names[::2])}
    pairs, folded, masks = {}, [], []
    for at, name in enumerate(names):
        pair = make_pair(300, 3, seed=at)
        pair.terms = SessionTerms(bytes(32), name, {"shipper": 3}, pair.shape, bytes(32), 8)
        pair.query_key = QueryKey(
            announce_key(pair.key, pair.terms, pair.label_identity), pair.terms, pair.label_identity.public_bytes
        )
        answer = pair.multiply(pair.encrypt())
        others = OtherLabelHolders([(p, MaskSeed(seeds[frozenset((name, p))])) for p in names if p != name])
        folded.append(pair.open(pair.fold(answer.message, others=others)))
        masks.append(answer.mask_sums)
        pairs[name] = pair
    assert np.allclose(unmask(folded, masks), sum(pair.expected() for pair in pairs.values()))
    alone = unmask(folded[:1], masks[:1])
    assert np.abs(alone - pairs["alpha"].expected()).min() > 1.0


def test_b6_two_label_holders_would_read_each_other_and_are_refused():
    with pytest.raises(TooFewContributors, match="one label holder or at least 3"):
        OtherLabelHolders([("omega", MaskSeed(bytes(32)))])


# ---- A5: what arrives is not what it should be ----


def _changed(data, kind, identity, domain, **changes):
    message = kind.FromString(Signed.FromString(data).body)
    for name, value in changes.items():
        setattr(message, name, value)
    return sign(identity, domain, message)


def test_a5_a_flipped_bit_anywhere_is_refused_by_the_signature(make_pair):
    pair = make_pair(200, 2)
    query = bytearray(pair.encrypt())
    query[len(query) // 2] ^= 1
    with pytest.raises((BadSignature, EncryptedGradientError)):
        pair.multiply(bytes(query))


def test_a5_a_residue_that_is_not_below_its_prime_is_refused(make_pair):
    pair = make_pair(200, 2, 1)
    full = np.full((1, 3, POLY_MODULUS_DEGREE), (1 << 54) - 1, dtype=np.uint64)
    query = _changed(
        pair.encrypt(),
        wire_types.EncryptedResiduals,
        pair.label_identity,
        "encrypted-residuals",
        first_polynomials=pack(full),
    )
    with pytest.raises(MalformedGradient, match="below its prime"):
        pair.multiply(query)


@pytest.mark.parametrize("length", [0, 1, 27, 10_000_000])
def test_a5_ciphertexts_of_another_length_are_refused(make_pair, length):
    pair = make_pair(200, 2, 1)
    answer = pair.multiply(pair.encrypt())
    short = _changed(
        answer.message, wire_types.MaskedProducts, pair.feature_identity, "masked-products", ciphertexts=bytes(length)
    )
    with pytest.raises(MalformedGradient):
        pair.fold(short)


def test_a5_a_keyless_answer_is_refused(make_pair):
    pair = make_pair(200, 2, 2)
    keyless = np.zeros((1, 2, 1, POLY_MODULUS_DEGREE), dtype=np.uint64)
    keyless[0, 0] = 7
    answer = _changed(
        pair.multiply(pair.encrypt()).message,
        wire_types.MaskedProducts,
        pair.feature_identity,
        "masked-products",
        ciphertexts=pack_answers(keyless),
    )
    with pytest.raises(MalformedGradient, match="second polynomial is zero"):
        pair.fold(answer)


@pytest.mark.parametrize("poly", [0, 1])
def test_a5_a_public_key_that_hides_nothing_is_refused(make_pair, poly):
    pair = make_pair(200, 2)
    size = len(pair.key.public_bytes) // 2
    raw = bytearray(pair.key.public_bytes)
    raw[poly * size : (poly + 1) * size] = bytes(size)
    message = wire_types.GradientKey(session=pair.terms.digest(), label_holder="lender", public_key=bytes(raw))
    with pytest.raises(MalformedGradient, match="public key"):
        QueryKey(sign(pair.label_identity, "gradient-key", message), pair.terms, pair.label_identity.public_bytes)


def test_a5_a_public_key_signed_by_somebody_else_is_refused(make_pair):
    pair = make_pair(200, 2)
    with pytest.raises(BadSignature):
        QueryKey(
            announce_key(pair.key, pair.terms, pair.feature_identity), pair.terms, pair.label_identity.public_bytes
        )


def test_messages_of_another_pass_or_session_are_refused(make_pair):
    pair = make_pair(200, 2)
    query = pair.encrypt(0)
    with pytest.raises(WrongPass):
        pair.multiply(query, 1)
    answer = pair.multiply(query)
    with pytest.raises(WrongPass):
        pair.fold(answer.message, 1)
    folded = pair.fold(answer.message)
    with pytest.raises(WrongPass):
        pair.open(folded, 1)
    pair.terms = SessionTerms(bytes(32), "lender", {"shipper": 2}, pair.shape, b"x" * 32, 8)
    with pytest.raises(WrongPass):
        pair.multiply(query)


def test_secrets_are_not_shown_and_not_pickled(make_pair):
    pair = make_pair(200, 2)
    answer = pair.multiply(pair.encrypt())
    assert repr(pair.key) == "LabelKey(...)"
    assert str(int(answer.mask_sums[0])) not in repr(answer)
    with pytest.raises(TypeError):
        pair.key.__reduce__()


def test_prepared_columns_refuse_other_rows_than_the_session(make_pair):
    pair = make_pair(200, 2)
    with pytest.raises(GradientBounds, match="columns of 200 rows"):
        PreparedColumns(pair.checked(pair.levels[:-1]), "lender", pair.shape)


def test_packing_is_inverted_by_unpacking():
    generator = np.random.default_rng(1)
    residues = generator.integers(0, PRIMES[0], (3, 2, 1, POLY_MODULUS_DEGREE), dtype=np.uint64)
    packed = pack(residues)
    assert len(packed) == residues.size * 54 // 8
    assert np.array_equal(unpack(packed, residues.shape, ANSWER_PRIMES, "residues"), residues)


def test_answers_are_rounded_to_the_middle_of_their_steps():
    generator = np.random.default_rng(2)
    residues = generator.integers(0, PRIMES[0], (3, 2, 1, POLY_MODULUS_DEGREE), dtype=np.uint64)
    residues[0, :, 0, 0] = PRIMES[0] - 1
    back = unpack_answers(pack_answers(residues), 3)
    error = np.abs(back.astype(np.int64) - residues.astype(np.int64))
    error = np.minimum(error, PRIMES[0] - error)
    assert error[:, 0].max() <= 1 << 13
    assert error[:, 1].max() <= 1 << 5
    assert back.max() < PRIMES[0]


def test_balanced_shape_moves_fewest_bytes():
    shape = SlotShape.balanced(21_000, {"shipper": 155})
    assert 4 <= shape.repeat <= 7
    assert SlotShape.balanced(105_000, {"payer": 20, "shipper": 14}).repeat == 1
    with pytest.raises(GradientBounds):
        SlotShape.balanced(10_000_000, {"shipper": 1})


def test_a_label_key_is_new_each_time():
    assert LabelKey.generate().public_bytes != LabelKey.generate().public_bytes
    assert PLAIN_MODULUS % (2 * POLY_MODULUS_DEGREE) == 1
