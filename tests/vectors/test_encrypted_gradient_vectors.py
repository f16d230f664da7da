"""Golden vectors of encrypted gradients: two versions of this code must mean the same bytes.

The expansion is written out a second time here, with integers and one word at a time.
"""

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from protos.encrypted_gradient.packing import pack
from protos.encrypted_gradient.parameters import PRIMES, gradient_parameters_digest
from protos.encrypted_gradient.seeded import second_polynomial
from protos.encrypted_gradient.session import SessionTerms, SlotShape
from protos.sealed_sum.canonical import digest

SEED = bytes(range(32))


def test_second_polynomial_matches_a_slow_expansion_and_its_golden_hash():
    found = second_polynomial(SEED, 1)
    assert (
        hashlib.sha256(found.astype("<u8").tobytes()).hexdigest()
        == "3aeae4808795baf1a115daf244c24ea74312cb6119e7ee66edd3e631c7454b8f"
    )
    key = digest("encrypted-gradient/second-polynomial", SEED, 1, 2)
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(800))
    words = (int.from_bytes(stream[at : at + 8], "little") % 2**54 for at in range(0, 800, 8))
    assert found[2, :100].tolist() == [word for word in words if word < PRIMES[2]][:100]


def test_residues_are_packed_at_54_bits_little_endian():
    residues = np.array([1, 2, 3, (1 << 54) - 1], dtype=np.uint64)
    expected = sum(int(residue) << (54 * at) for at, residue in enumerate(residues.tolist())).to_bytes(27, "little")
    assert pack(residues) == expected
    assert expected.hex() == "0100000000008000000000000030000000000000fcffffffffffff"


def test_session_digest_is_golden_and_says_everything():
    terms = SessionTerms(bytes(32), "lender", {"shipper": 155, "payer": 7}, SlotShape(21_000, 6), SEED, 8)
    assert terms.digest().hex() == "fa67601767c7fa30be2413fc974cc5e2989743bae9a25e9cad3bcefbc03be968"
    others = [
        SessionTerms(bytes(31) + b"1", "lender", terms.columns, terms.shape, SEED, 8),
        SessionTerms(bytes(32), "bank", terms.columns, terms.shape, SEED, 8),
        SessionTerms(bytes(32), "lender", {"shipper": 156, "payer": 7}, terms.shape, SEED, 8),
        SessionTerms(bytes(32), "lender", terms.columns, SlotShape(21_000, 5), SEED, 8),
        SessionTerms(bytes(32), "lender", terms.columns, SlotShape(21_001, 6), SEED, 8),
        SessionTerms(bytes(32), "lender", terms.columns, terms.shape, bytes(32), 8),
        SessionTerms(bytes(32), "lender", terms.columns, terms.shape, SEED, 7),
        SessionTerms(bytes(32), "lender", terms.columns, terms.shape, SEED, 8, holdout_rows=9),
    ]
    assert len({terms.digest(), *(other.digest() for other in others)}) == 9
    assert len(gradient_parameters_digest()) == 32
