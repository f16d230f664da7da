"""Properties of the sealed sum's mathematics, whatever the values."""

import os
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from protos.sealed_sum import canonical, masking, shamir, tags
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.ciphertext import SealingKey, pack, reduce_sum, subtract_plain, unpack
from protos.sealed_sum.errors import MalformedMessage, OpeningRefused, ValueOutOfRange
from protos.sealed_sum.layout import LIMB_RANGE, Field, Layout, decode, encode, limb_base
from protos.sealed_sum.masking import expand, mask_total
from protos.sealed_sum.parameters import DATA_SLOTS, MAX_COHORT, PLAIN_MODULUS, POLY_MODULUS_DEGREE, PRIMES
from protos.sealed_sum.secret import MaskSeed, TagKey

T = np.uint64(PLAIN_MODULUS)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
few = settings(max_examples=8, deadline=None)
cohorts = st.integers(3, 50)


@quick
@given(cohorts, st.integers(0, 2**32), st.sets(st.integers(0, 49), max_size=3))
def test_masks_cancel_exactly_whatever_they_hide_and_whoever_drops(n, entropy, gone):
    """Sum over survivors, minus self masks and dangling pairwise masks, is the sum of the inputs modulo t."""
    names = [f"m{i:02d}" for i in range(n)]
    dropped = {names[i] for i in gone if i < n} if len(gone) < n - 1 else set()
    length = 3
    # Test inputs, not secrets: any function of the example will do.
    inputs = {m: (np.arange(length, dtype=np.uint64) * 977 + entropy * (i + 1)) % T for i, m in enumerate(names)}
    own = {m: MaskSeed(i.to_bytes(32, "little")) for i, m in enumerate(names)}

    def pair(a, b):
        first, second = sorted((names.index(a), names.index(b)))
        return MaskSeed((1000 + first * 100 + second).to_bytes(32, "big"))

    total = np.zeros(length, dtype=np.uint64)
    for m in names:
        if m not in dropped:
            mask = mask_total(m, own[m], [(p, pair(m, p)) for p in names if p != m], length)
            total = (total + (inputs[m] + mask) % T) % T
    for m in names:
        if m not in dropped:
            known = mask_total(m, own[m], [(p, pair(m, p)) for p in dropped], length)
            total = (total + T - known) % T

    assert total.tolist() == [
        sum(int(inputs[m][i]) for m in names if m not in dropped) % PLAIN_MODULUS for i in range(length)
    ]


@quick
@given(st.binary(min_size=32, max_size=32), st.integers(0, 300))
def test_mask_words_are_below_t_and_a_longer_mask_begins_with_the_shorter(seed, length):
    mask = expand(MaskSeed(seed), length)

    assert mask.shape == (length,)
    assert not np.any(mask >= T)
    assert np.array_equal(expand(MaskSeed(seed), length + 9)[:length], mask)


@pytest.mark.parametrize("modulus", [1 << 51, 3 << 50, (1 << 52) - 1])
def test_mask_words_at_or_above_the_modulus_are_rejected_and_replaced(monkeypatch, modulus):
    """With the real t one word in 2 * 10^10 is rejected, so the path is walked with smaller moduli."""
    every = expand(MaskSeed(bytes(range(32))), 4000)  # all words below t, in stream order
    monkeypatch.setattr(masking, "_T", np.uint64(modulus))
    kept = expand(MaskSeed(bytes(range(32))), 1500)

    assert kept.tolist() == every[every < modulus][:1500].tolist()


fields = st.builds(
    lambda name, length, low, levels, step: Field(name, length, low, low + (levels - 1) * step, step),
    st.sampled_from(["a", "b", "c"]),
    st.integers(1, 7),
    st.integers(-1000, 1000).map(float),
    st.one_of(st.integers(2, 2**20), st.integers(2**20, 2**40)),
    st.just(1.0),
)


@quick
@given(cohorts, st.lists(fields, min_size=1, max_size=3, unique_by=lambda f: f.name), st.data())
def test_encoding_adds_exactly_for_every_cohort_and_at_the_edges_of_the_range(n, chosen, data):
    layout = Layout(tuple(chosen))
    edges = data.draw(st.lists(st.sampled_from(["low", "high", "mid"]), min_size=n, max_size=n))
    total = np.zeros(layout.num_slots(n), dtype=np.uint64)
    truth = {field.name: [0] * field.length for field in chosen}
    for edge in edges:
        values = {}
        for field in chosen:
            integer = {"low": 0, "high": field.levels - 1, "mid": field.levels // 3}[edge]
            values[field.name] = np.full(field.length, field.low + integer * field.step)
            truth[field.name] = [x + integer for x in truth[field.name]]
        total += encode(layout, values, n)

    assert total.max() < T  # never wraps
    opened = decode(layout, total, n, n)
    assert {name: sums.tolist() for name, sums in opened.integers.items()} == truth
    for field in chosen:
        assert np.allclose(opened.values(field.name), n * field.low + np.array(truth[field.name]) * field.step)


@pytest.mark.parametrize("n", range(3, MAX_COHORT + 1, 7))
def test_no_cohort_can_wrap_a_limb_or_a_slot(n):
    most = n * (limb_base(n) - 1)

    assert most < LIMB_RANGE
    assert most + LIMB_RANGE * most < PLAIN_MODULUS


def test_five_members_have_twenty_bits_a_value_in_one_limb():
    assert Field("x", 1, 0.0, float(2**23), 1.0).limbs(5) == 1
    assert Field("x", 1, 0.0, float(2**20), 1.0).limbs(50) == 1


@quick
@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(-5, 5), st.floats(0.01, 10))
@example(5.0, 0.0, 5.0)
@example(np.nextafter(5.0, 6.0), 0.0, 5.0)
@example(float("nan"), 0.0, 1.0)
def test_a_value_is_within_half_a_step_or_refused(value, low, width):
    layout = Layout((Field("x", 1, low, low + width, width / 1000),))
    if low <= value <= low + width:
        slots = encode(layout, {"x": np.array([value])}, 5)
        assert abs(decode(layout, slots, 5, 1).values("x")[0] - value) <= width / 1000 * 0.501
    else:
        with pytest.raises(ValueOutOfRange, match="field 'x'"):
            encode(layout, {"x": np.array([value])}, 5)


def test_decoding_refuses_sums_that_members_cannot_add_up_to():
    layout = Layout((Field("x", 3, 0.0, 9.0, 1.0),))
    one = encode(layout, {"x": np.array([9.0, 9.0, 9.0])}, 5)

    assert decode(layout, one * 5, 5, 5).integers["x"].tolist() == [45] * 3
    with pytest.raises(OpeningRefused):
        decode(layout, one * 5, 5, 4)
    with pytest.raises(OpeningRefused):
        decode(layout, np.array([0, LIMB_RANGE * 9], dtype=np.uint64), 5, 5)  # the unused half slot
    padded = np.zeros(DATA_SLOTS, dtype=np.uint64)
    padded[2] = 1
    with pytest.raises(OpeningRefused):
        decode(layout, padded, 5, 5)
    with pytest.raises(MalformedMessage):
        decode(layout, np.zeros(3, dtype=np.uint64), 5, 5)


@quick
@given(st.binary(min_size=64, max_size=64), st.integers(1, 6), st.integers(0, 4), st.randoms())
def test_any_threshold_of_shares_rebuilds_the_secret(secret, threshold, extra, shuffle):
    points = shuffle.sample(range(1, 60), threshold + extra)
    shares = shamir.split(secret, threshold, points, os.urandom)
    chosen = shuffle.sample(points, threshold)

    assert shamir.combine({x: shamir.parse_share(shares[x]) for x in chosen}) == secret


@quick
@given(st.lists(st.one_of(st.binary(max_size=9), st.text(max_size=5), st.integers(0, 2**64 - 1)), max_size=4))
def test_no_two_meanings_have_one_encoding(parts):
    whole = canonical.encode("domain", *parts)

    assert canonical.encode("other", *parts) != whole
    assert canonical.encode("domain", *parts, b"") != whole
    if len(parts) > 1 and all(isinstance(part, bytes) for part in parts[:2]):
        assert canonical.encode("domain", parts[0] + parts[1], *parts[2:]) != whole


@pytest.fixture(scope="module")
def key():
    return SealingKey.generate()


@few
@given(st.integers(2, 200), st.integers(0, 2**31))
@example(200, 1)
def test_sums_of_ciphertexts_decrypt_exactly_for_up_to_two_hundred_members(key, n, entropy):
    ramp = np.arange(POLY_MODULUS_DEGREE, dtype=np.uint64) * np.uint64(entropy * 2 + 1)
    slots = np.stack([(ramp * np.uint64(i + 1)) % T for i in range(4)])
    sealed = key.encrypt(slots)
    take = np.array([n // 4 + (i < n % 4) for i in range(4)], dtype=np.uint64)
    total = reduce_sum((sealed * take.reshape(-1, 1, 1, 1)).sum(axis=0, keepdims=True))
    mask = expand(MaskSeed(entropy.to_bytes(32, "big")), POLY_MODULUS_DEGREE).reshape(1, -1)
    unmasked = subtract_plain(total, mask)

    truth = [
        (sum(int(slots[i, j]) * int(take[i]) for i in range(4)) - int(mask[0, j])) % PLAIN_MODULUS
        for j in range(POLY_MODULUS_DEGREE)
    ]
    assert key.decrypt(unmasked)[0].tolist() == truth


@few
@given(st.binary(min_size=32, max_size=32))
def test_packing_is_the_identity_on_residues(seed):
    words = expand(MaskSeed(seed), 2 * 4 * POLY_MODULUS_DEGREE).reshape(2, 2, 2, POLY_MODULUS_DEGREE)
    residues = words % np.array(PRIMES, dtype=np.uint64).reshape(1, 1, 2, 1)

    assert np.array_equal(unpack(pack(residues), 2), residues)


@few
@given(st.integers(0, DATA_SLOTS - 1), st.integers(1, PLAIN_MODULUS - 1))
def test_a4_tags_notice_any_change_of_any_slot(slot, change):
    tag_key, epoch_id, h_k = TagKey(bytes(32)), bytes(32), bytes(32)
    data = expand(MaskSeed(bytes(32)), DATA_SLOTS).reshape(1, -1)
    both = (tags.append(tag_key, epoch_id, h_k, "aa", data) + tags.append(tag_key, epoch_id, h_k, "bb", data)) % T

    assert tags.fit(tag_key, epoch_id, h_k, ["aa", "bb"], both)
    assert not tags.fit(tag_key, epoch_id, h_k, ["aa"], both)
    assert not tags.fit(tag_key, epoch_id, h_k, ["aa", "cc"], both)
    assert not tags.fit(tag_key, epoch_id, bytes([1] * 32), ["aa", "bb"], both)
    both[0, slot] = (both[0, slot] + np.uint64(change)) % T
    assert not tags.fit(tag_key, epoch_id, h_k, ["aa", "bb"], both)


@quick
@given(st.integers(3, 200), st.integers(0, 60))
def test_section_0_smallest_bounds_always_keep_two_honest_members_together(n, c):
    if (n + c + 3) // 2 <= n and (n + c + 3) // 2 >= c + 2:
        bounds = Bounds.smallest(n, c)

        assert bounds.min_opened_honest >= 2
        assert bounds.max_dropouts == (n - c - 2) // 2


def test_secrets_do_not_print_compare_or_pickle():
    seed = MaskSeed(bytes(range(32)))

    assert repr(seed) == "MaskSeed()"
    assert seed.matches(MaskSeed(bytes(range(32))))
    with pytest.raises(TypeError, match="matches"):
        _ = seed == MaskSeed(bytes(range(32)))
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(seed)
    with pytest.raises(ValueError, match="32 bytes"):
        MaskSeed(b"short")


def test_the_sealing_key_does_not_print_or_pickle(key):
    assert repr(key) == "SealingKey(...)"
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(key)
