"""A malicious coordinator without the keys hands nodes something other than the sum: every try is refused.

Adversary: the coordinator alone, or with outsiders; it sees every message and makes any bytes it likes.
"""

import numpy as np
import pytest
import tenseal

from protos.sealed_sum import ciphertext
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.ciphertext import SealingKey, pack, reduce_sum, subtract_plain, unpack
from protos.sealed_sum.errors import (
    CohortRefused,
    EpochEnded,
    HeaderMismatch,
    MalformedCiphertext,
    MalformedMessage,
    OpeningRefused,
    StaleSum,
    SurvivorSetRefused,
    WrongEpoch,
)
from protos.sealed_sum.layout import Field, Layout
from protos.sealed_sum.member import contribute, open_sum, remember
from protos.sealed_sum.parameters import (
    CIPHERTEXT_BYTES,
    DATA_SLOTS,
    PLAIN_MODULUS,
    POLY_MODULUS_DEGREE,
    PRIMES,
)
from protos.sealed_sum.sealed_sum_pb2 import SealedSum
from simulations.benchmarks.sealed_sum import Consortium

LAYOUT = Layout((Field("update", 2 * DATA_SLOTS + 100, 0.0, 1000.0, 1.0),))
COUNT = LAYOUT.num_ciphertexts(5)
PRIME_COLUMN = np.array(PRIMES, dtype=np.uint64).reshape(1, 1, -1, 1)


class Opened:
    """An honest sum that a node is about to be given, and the ways to give it another."""

    def __init__(self):
        self.consortium = Consortium.found(Bounds.smallest(5, 1))
        self.member = self.consortium.view.cohort[0]
        self.state = self.consortium.states[self.member]
        values = {
            m: {"update": np.full(2 * DATA_SLOTS + 100, float(i))} for i, m in enumerate(self.consortium.view.cohort)
        }
        self.values = values
        self.earlier_header = self.consortium.header(LAYOUT, 0, model_digest=bytes([7] * 32))
        self.earlier = self.consortium.seal(self.earlier_header, LAYOUT, values)
        for member in self.consortium.view.cohort:
            self.consortium.open(member, self.earlier_header, LAYOUT, self.earlier)
        self.header = self.consortium.header(LAYOUT, 1)
        self.sealed = self.consortium.seal(self.header, LAYOUT, values)
        self.memory = self.consortium.memories[self.member]

    def residues(self, sealed=None):
        return unpack(SealedSum.FromString(sealed or self.sealed).ciphertexts, COUNT).copy()

    def with_residues(self, residues):
        message = SealedSum.FromString(self.sealed)
        message.ciphertexts = pack(residues)
        return message.SerializeToString(deterministic=True)

    def edited(self, **fields):
        message = SealedSum.FromString(self.sealed)
        for name, value in fields.items():
            if name == "survivors":
                del message.survivors[:]
                message.survivors.extend(value)
            else:
                setattr(message, name, value)
        return message.SerializeToString(deterministic=True)

    def open(self, message, memory=None):
        return open_sum(self.state, memory or self.memory, self.header, LAYOUT, message)


@pytest.fixture(scope="module")
def given():
    return Opened()


def keyless(given):
    """(Delta * m, 0): decrypts under any key to m. TenSEAL accepts it; the first check does not."""
    residues = np.zeros_like(given.residues())
    q = PRIMES[0] * PRIMES[1]
    residues[:, 0, 0] = q // PLAIN_MODULUS * 7 % PRIMES[0]
    residues[:, 0, 1] = q // PLAIN_MODULUS * 7 % PRIMES[1]
    return residues


def almost_keyless(given):
    """The same with one non-zero residue, so that it is not "transparent"."""
    residues = keyless(given)
    residues[:, 1, 0, 0] = 1
    return residues


def scaled(given):
    return given.residues() * np.uint64(2) % PRIME_COLUMN


def shifted(given):
    slots = np.zeros((COUNT, POLY_MODULUS_DEGREE), dtype=np.uint64)
    slots[0, 5] = 1
    return subtract_plain(given.residues(), slots)


def shifted_roster(given):
    slots = np.zeros((COUNT, POLY_MODULUS_DEGREE), dtype=np.uint64)
    slots[0, DATA_SLOTS] = 1
    return subtract_plain(given.residues(), slots)


def shifted_tags(given):
    slots = np.zeros((COUNT, POLY_MODULUS_DEGREE), dtype=np.uint64)
    slots[0, DATA_SLOTS + 1 :] = 1
    return subtract_plain(given.residues(), slots)


def one_slot_kept(given):
    """One slot of the sum and zeros elsewhere, by multiplying with a plaintext: the oracle of rule A4."""
    out = np.empty_like(given.residues())
    unit = [0] * POLY_MODULUS_DEGREE
    unit[7] = 1
    for index, residues in enumerate(given.residues()):
        vector = tenseal.bfv_vector_from(ciphertext._keyless_context(), ciphertext._vector_bytes(residues))
        out[index] = ciphertext._residues_of((vector * unit).serialize())
    return out


def multiplied_by_x(given):
    """The plaintext polynomial times x: every coefficient moves by one, the noise does not grow."""
    residues = given.residues()
    rolled = np.roll(residues, 1, axis=-1)
    rolled[..., 0] = (PRIME_COLUMN[..., 0] - rolled[..., 0]) % PRIME_COLUMN[..., 0]
    return rolled


def other_sum(given):
    """The ciphertexts of another, genuine sum number."""
    return given.residues(given.earlier)


def mixed_sums(given):
    residues = given.residues()
    residues[1] = given.residues(given.earlier)[1]
    return residues


def swapped_ciphertexts(given):
    return given.residues()[[1, 0, *range(2, COUNT)]].copy()


def added_up(given):
    return reduce_sum(given.residues() + given.residues(given.earlier))


def own_key(given):
    return SealingKey.generate().encrypt(np.ones((COUNT, POLY_MODULUS_DEGREE), dtype=np.uint64))


def uniform(given):
    words = np.frombuffer(given.consortium.rng(given.residues().nbytes), dtype=np.uint64)
    return words.reshape(given.residues().shape) % PRIME_COLUMN


FORGERIES = [
    almost_keyless,
    scaled,
    shifted,
    shifted_roster,
    shifted_tags,
    one_slot_kept,
    multiplied_by_x,
    other_sum,
    mixed_sums,
    swapped_ciphertexts,
    added_up,
    own_key,
    uniform,
]


def test_the_genuine_sum_opens(given):
    opening = given.open(given.sealed)

    assert opening.opened.integers["update"].tolist() == [10] * (2 * DATA_SLOTS + 100)
    assert opening.survivors == given.consortium.view.cohort


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda f: f.__name__)
def test_a4_node_refuses_forged_ciphertexts_with_one_error_and_ends_the_epoch(given, forgery):
    with pytest.raises(OpeningRefused) as refused:
        given.open(given.with_residues(forgery(given)))

    assert str(refused.value) == str(OpeningRefused())
    assert refused.value.memory.ended
    with pytest.raises(EpochEnded):
        given.open(given.sealed, refused.value.memory)
    with pytest.raises(EpochEnded):
        contribute(
            given.state,
            refused.value.memory,
            given.consortium.header(LAYOUT, 5),
            LAYOUT,
            given.values[given.member],
            given.consortium.rng,
        )


def test_a4_every_flipped_bit_is_refused(given):
    blob = SealedSum.FromString(given.sealed).ciphertexts
    for step in range(24):
        flipped = bytearray(blob)
        flipped[step * 9103 % len(blob)] ^= 1 << step % 8
        with pytest.raises((OpeningRefused, MalformedCiphertext)):
            given.open(given.edited(ciphertexts=bytes(flipped)))


def test_a4_node_refuses_a_subset_sum_under_the_full_roster(given):
    """The sum over four, truly unmasked, but named as the sum over five; and the reverse."""
    four = given.consortium.view.cohort[:4]
    header = given.consortium.header(LAYOUT, 2, purpose="subset", input_class="static")
    fresh = Consortium(
        given.consortium.view,
        given.consortium.states,
        {m: remember(s) for m, s in given.consortium.states.items()},
        given.consortium.rng,
    )
    sealed = fresh.seal(header, LAYOUT, given.values, silent=given.consortium.view.cohort[4:])
    message = SealedSum.FromString(sealed)
    del message.survivors[:]
    message.survivors.extend(given.consortium.view.cohort)
    outsider = remember(given.state)

    with pytest.raises(OpeningRefused):
        open_sum(given.state, outsider, header, LAYOUT, message.SerializeToString(deterministic=True))
    assert open_sum(given.state, outsider, header, LAYOUT, sealed).survivors == four


def test_a5_node_refuses_a_keyless_ciphertext_before_decrypting(given):
    with pytest.raises(MalformedCiphertext, match="second polynomial"):
        given.open(given.with_residues(keyless(given)))


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\x00",
        bytes(COUNT * CIPHERTEXT_BYTES - 1),
        bytes(CIPHERTEXT_BYTES),
        bytes(range(256)) * 400,
    ],
    ids=["empty", "one byte", "one short", "too few", "other parameters"],
)
def test_a5_node_refuses_ciphertexts_of_any_other_length(given, blob):
    with pytest.raises(MalformedCiphertext, match="bytes"):
        given.open(given.edited(ciphertexts=blob))


def test_a5_node_refuses_an_oversized_message_before_parsing_it(given):
    with pytest.raises(MalformedMessage, match="at most"):
        given.open(given.edited(ciphertexts=bytes((COUNT + 1) * CIPHERTEXT_BYTES)))


def test_a5_node_refuses_a_residue_that_is_not_below_its_prime(given):
    for residue in (PRIMES[0], (1 << 36) - 1):
        residues = given.residues()
        residues[0, 0, 0, 9] = residue
        with pytest.raises(MalformedCiphertext, match="below its prime"):
            given.open(given.with_residues(residues))


def test_a5_node_never_takes_a_tenseal_message(given):
    context = tenseal.context(
        tenseal.SCHEME_TYPE.BFV,
        poly_modulus_degree=POLY_MODULUS_DEGREE,
        plain_modulus=PLAIN_MODULUS,
        coeff_mod_bit_sizes=[36, 36, 37],
    )
    vector = tenseal.bfv_vector(context, [1]).serialize()

    with pytest.raises(MalformedMessage):
        given.open(vector)
    with pytest.raises(MalformedCiphertext):
        given.open(given.edited(ciphertexts=vector))


def test_node_refuses_unknown_fields_and_repeated_encodings(given):
    for extra in (b"\x7a\x01x", b"\x10\x01"):  # an unknown field 15; k a second time
        with pytest.raises(MalformedMessage, match="canonical"):
            given.open(given.sealed + extra)
    with pytest.raises(MalformedMessage):
        given.open(b"\xff" * 64)


def test_a10_node_refuses_a_sum_of_another_epoch(given):
    with pytest.raises(WrongEpoch):
        given.open(given.edited(epoch_id=bytes(32)))


def test_a3_node_refuses_a_sum_under_another_header(given):
    with pytest.raises(HeaderMismatch):
        given.open(given.edited(header_digest=bytes(32)))
    with pytest.raises(HeaderMismatch):
        given.open(given.edited(k=3))


def test_node_refuses_survivors_it_did_not_answer_for(given):
    with pytest.raises(SurvivorSetRefused):
        given.open(given.edited(survivors=given.consortium.view.cohort[:4]))
    for roster in (("member-00",), (), (*given.consortium.view.cohort, "stranger")):
        with pytest.raises(CohortRefused):
            given.open(given.edited(survivors=roster))


def test_a4_one_ciphertext_is_opened_for_each_sum_number(given):
    after = given.open(given.sealed).memory
    again = given.open(given.sealed, after)
    other = given.with_residues(shifted(given))

    assert again.memory == after
    with pytest.raises(StaleSum):
        given.open(other, after)
    with pytest.raises(StaleSum):
        open_sum(given.state, after, given.earlier_header, LAYOUT, given.earlier)
