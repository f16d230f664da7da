"""Rule B2: a label holder that keeps what it gets reads no column, neither by division nor from the noise.

Adversary: the label holder, honest in its messages, with its secret key and unlimited curiosity. Each attack is run
twice: on products without the protection it breaks, where it succeeds, and on the answer as it is made.
"""

import os

import numpy as np
import pytest
import tenseal.sealapi as seal

from protos.encrypted_gradient.feature_holder import hide_columns, product_of_group
from protos.encrypted_gradient.parameters import FLOODING_BITS, PLAIN_MODULUS, POLY_MODULUS_DEGREE, PRIMES
from protos.encrypted_gradient.sampling import flooding, fresh_stream, gaussian, uniform_slots
from protos.encrypted_gradient.seal_edge import _saved, _tail, seal_runtime

Q = PRIMES[0] * PRIMES[1] * PRIMES[2]
PRIME = PRIMES[0]


class Attack:
    """One chunk, one column, and what the label holder has afterwards."""

    def __init__(self, make_pair):
        self.pair = make_pair(8192, 1, 1)
        self.runtime = seal_runtime()
        self.columns = self.pair.prepared()
        slots = np.rint(self.pair.residuals * 511).astype(np.int64)
        self.plain_query = self.runtime.encode(slots)
        query = seal.Ciphertext()
        self.pair.key._encryptor.encrypt_symmetric(self.plain_query, query)
        self.query = query
        self.query_ntt = seal.Ciphertext()
        self.runtime.evaluator.transform_to_ntt(query, self.query_ntt)

    def product(self):
        return product_of_group(self.columns, [self.query_ntt], 0)

    def fresh_mask(self):
        return self.pair.query_key.encrypt(uniform_slots(fresh_stream(os.urandom), (1, POLY_MODULUS_DEGREE))[0])

    def protected(self):
        answer = self.product()
        hide_columns(answer, self.fresh_mask(), fresh_stream(os.urandom))
        return answer

    def divided(self, answer):
        """c1 of the answer by c1 of the query, modulo the first prime, point by point."""
        in_ntt = seal.Ciphertext()
        self.runtime.evaluator.transform_to_ntt(answer, in_ntt)
        above = self.runtime.residues(in_ntt)[1, 0].tolist()
        below = self.runtime.residues(self.query_ntt)[1, 0].tolist()
        return [a * pow(b, -1, PRIME) % PRIME for a, b in zip(above, below, strict=True)]

    def true_column(self):
        words = _tail(_saved(self.columns.plaintext(0, 0)), 3 * POLY_MODULUS_DEGREE)
        return words.reshape(3, -1)[0].tolist()

    # ---- the noise: phase = c0 + c1 s, which the key's owner computes ----

    def phase(self, ciphertext):
        """c0 + c1 s modulo q as residues, coefficient form, shape (3, 8192)."""
        in_ntt = seal.Ciphertext()
        self.runtime.evaluator.transform_to_ntt(ciphertext, in_ntt)
        first, second = self.runtime.residues(in_ntt)
        product = self.runtime.ciphertext(np.stack([second, second]), ntt=True)
        self.runtime.evaluator.multiply_plain_inplace(product, self.pair.key._factor)
        total = (first + self.runtime.residues(product)[0]) % np.array(PRIMES, dtype=np.uint64).reshape(-1, 1)
        return self.coefficients(np.stack([total, total]))

    def coefficients(self, ntt_residues):
        made = self.runtime.ciphertext(ntt_residues, ntt=True)
        self.runtime.evaluator.transform_from_ntt_inplace(made)
        return lift(self.runtime.residues(made)[0])

    def times(self, polynomial, levels):
        """A polynomial modulo q times a guessed column."""
        residues = np.array([[x % p for x in polynomial] for p in PRIMES], dtype=np.uint64)
        made = self.runtime.ciphertext(np.stack([residues, residues]), ntt=False)
        self.runtime.evaluator.transform_to_ntt_inplace(made)
        self.runtime.evaluator.multiply_plain_inplace(made, self.runtime.encode_ntt(levels.astype(np.int64)))
        return self.coefficients(self.runtime.residues(made))

    def leftover(self, answer, levels):
        """Largest coefficient of the noise that a guessed column does not explain, bits."""
        plain = seal.Plaintext()
        self.pair.key._decryptor.decrypt(answer, plain)
        slots = np.array(self.runtime.encoder.decode_int64(plain), dtype=np.int64)
        query = np.rint(self.pair.residuals * 511).astype(np.int64)
        mask = self.runtime.encode((slots - query * levels.astype(np.int64)) % PLAIN_MODULUS)
        words = _tail(_saved(mask), mask.coeff_count()).tolist()
        words += [0] * (POLY_MODULUS_DEGREE - len(words))
        explained = self.times(self.phase(self.query), levels)
        rest = (
            (seen - guess - (Q * m + PLAIN_MODULUS // 2) // PLAIN_MODULUS) % Q
            for seen, guess, m in zip(self.phase(answer), explained, words, strict=True)
        )
        return max(min(x, Q - x) for x in rest).bit_length()


def lift(residues):
    """Integers modulo q from residues, by the Chinese remainder theorem."""
    total = [0] * residues.shape[1]
    for row, prime in zip(residues.tolist(), PRIMES, strict=True):
        other = Q // prime
        factor = other * pow(other, -1, prime)
        total = [(x + r * factor) % Q for x, r in zip(total, row, strict=True)]
    return total


@pytest.fixture
def attack(make_pair):
    return Attack(make_pair)


def test_b2_dividing_the_answer_by_the_query_reads_the_column_of_a_bare_product(attack):
    assert attack.divided(attack.product()) == attack.true_column()


def test_b2_a_plaintext_mask_does_not_stop_the_division(attack):
    answer = attack.product()
    mask = attack.runtime.encode(uniform_slots(fresh_stream(os.urandom), (1, POLY_MODULUS_DEGREE))[0])
    attack.runtime.evaluator.add_plain_inplace(answer, mask)
    assert attack.divided(answer) == attack.true_column()


def test_b2_the_fresh_encryption_of_the_mask_stops_the_division(attack):
    found, true = attack.divided(attack.protected()), attack.true_column()
    assert sum(a == b for a, b in zip(found, true, strict=True)) <= 2


def test_b2_without_flooding_the_noise_tells_the_right_column_from_another(attack):
    answer = attack.product()
    attack.runtime.evaluator.add_inplace(answer, attack.fresh_mask())
    right = attack.pair.levels[:, 0]
    wrong = right.copy()
    wrong[17] ^= 1
    assert attack.leftover(answer, right) < 24
    assert attack.leftover(answer, wrong) > 30


def test_b2_flooding_drowns_what_the_noise_says(attack):
    answer = attack.protected()
    right = attack.pair.levels[:, 0]
    wrong = (127 - right).astype(np.uint8)
    assert attack.leftover(answer, right) == FLOODING_BITS
    assert attack.leftover(answer, wrong) == FLOODING_BITS


def test_b2_message_dependent_noise_stays_65_bits_below_the_flooding(attack):
    answer = attack.product()
    attack.runtime.evaluator.add_inplace(answer, attack.fresh_mask())
    zero = np.zeros(8192, dtype=np.uint8)
    zero[0] = 1
    assert attack.leftover(answer, zero) < FLOODING_BITS - 65


def test_b2_masks_and_flooding_are_fresh_in_every_answer(make_pair):
    pair = make_pair(200, 2)
    query = pair.encrypt()
    first, second = pair.multiply(query), pair.multiply(query)
    assert first.message != second.message
    assert not np.array_equal(first.mask_sums, second.mask_sums)


def test_b2_flooding_is_uniform_over_its_range_and_the_same_number_modulo_each_prime():
    values = lift(flooding(fresh_stream(os.urandom), PRIMES, POLY_MODULUS_DEGREE))
    signed = [x if x < Q // 2 else x - Q for x in values]
    assert max(signed) < 1 << FLOODING_BITS
    assert min(signed) >= -(1 << FLOODING_BITS)
    scaled = np.array([x / 2.0**FLOODING_BITS for x in signed])
    assert abs(scaled.mean()) < 0.03
    assert abs(scaled.std() - 3**-0.5) < 0.02
    assert len({x & 0xFFFF for x in values}) > 7000


def test_b2_the_mask_makes_the_decrypted_slots_uniform(make_pair):
    pair = make_pair(8192, 1, 1)
    pair.residuals[:] = 0.0
    seen = []
    original = pair.key.decrypt
    pair.key.decrypt = lambda residues: seen.append(original(residues)) or seen[-1]
    pair.fold(pair.multiply(pair.encrypt()).message)
    shares = np.histogram(seen[0] % PLAIN_MODULUS, bins=16, range=(0, PLAIN_MODULUS))[0] / POLY_MODULUS_DEGREE
    assert np.abs(shares - 1 / 16).max() < 0.015


def test_an_encrypted_query_looks_uniform_whatever_the_residuals(make_pair):
    pair = make_pair(8192, 1, 1)
    for residuals in (np.zeros(8192), np.ones(8192)):
        made = pair.key.encrypt(np.rint(residuals * 511).astype(np.int64), os.urandom(32), 0)
        shares = np.histogram(made[0], bins=16, range=(0, PRIME))[0] / POLY_MODULUS_DEGREE
        assert np.abs(shares - 1 / 16).max() < 0.015


def test_gaussian_noise_has_its_moments_and_tails():
    drawn = gaussian(fresh_stream(os.urandom), 2.0, 200_001)
    assert drawn.shape == (200_001,)
    assert abs(drawn.mean()) < 0.03
    assert abs(drawn.std() - 2.0) < 0.03
    assert abs((np.abs(drawn) > 4.0).mean() - 0.0455) < 0.004
