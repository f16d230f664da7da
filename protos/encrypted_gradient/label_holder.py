"""The label holder's side: encrypt residuals under its own key, fold what comes back to one number per column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Self

import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from protos.encrypted_gradient.encrypted_gradient_pb2 import (
    EncryptedResiduals,
    FoldedSums,
    GradientKey,
    MaskedProducts,
)
from protos.encrypted_gradient.errors import GradientBounds, MalformedGradient, TooFewContributors
from protos.encrypted_gradient.messages import expect_header, open_message
from protos.encrypted_gradient.packing import pack, pack_key, unpack_answers
from protos.encrypted_gradient.parameters import (
    GRADIENT_SCALE,
    LABEL_NOISE_SIGMA,
    PLAIN_MODULUS,
    POLY_MODULUS_DEGREE,
    PRIMES,
    RESIDUAL_LEVELS,
)
from protos.encrypted_gradient.sampling import Rng, expand_modulo, fresh_stream, gaussian
from protos.encrypted_gradient.seal_edge import Residues, seal_runtime
from protos.encrypted_gradient.seeded import second_polynomial
from protos.encrypted_gradient.session import QueryBudget, SessionTerms, SlotShape, expect_pass, products_bytes
from protos.encrypted_gradient.support import check_residual_bounds
from protos.sealed_sum.keys import SigningKey
from protos.sealed_sum.secret import MaskSeed
from protos.sealed_sum.wire import sign

_PRIME_COLUMN = np.array(PRIMES, dtype=np.uint64).reshape(-1, 1)
_NOISE_TAIL = 16.0  # sigmas; a larger draw has a chance of 2^-180


class LabelKey:
    """The label holder's BFV key pair of one session; it lives in memory alone and is never stored."""

    def __init__(self) -> None:
        """Draw a new pair (SEAL's own generator, seeded by the operating system)."""
        runtime = seal_runtime()
        generator = seal.KeyGenerator(runtime.context)
        secret = generator.secret_key()
        public = seal.PublicKey()
        generator.create_public_key(public)
        self._encryptor = seal.Encryptor(runtime.context, secret)
        self._decryptor = seal.Decryptor(runtime.context, secret)
        self._factor = runtime.secret_factor(secret)
        self.public_bytes = pack_key(runtime.public_key_residues(public))

    @classmethod
    def generate(cls) -> Self:
        """Draw a new pair."""
        return cls()

    def __repr__(self) -> str:
        return "LabelKey(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("LabelKey is not pickled or copied; a session that lost it starts again")

    def encrypt(self, slots: NDArray[np.int64], seed: bytes, chunk: int) -> Residues:
        """Encrypt one chunk so that its second polynomial is the one that `seed` gives.

        SEAL encrypts to (c0, c1) with c0 + c1 s = e + Delta m. With a = expand(seed), c0 + (c1 - a) s is the first
        polynomial of a fresh encryption of the same kind whose second one is a; so a need not travel.

        Returns:
            The first polynomial in NTT form, shape (3, 8192).
        """
        runtime = seal_runtime()
        encrypted = seal.Ciphertext()
        self._encryptor.encrypt_symmetric(runtime.encode(slots), encrypted)
        runtime.evaluator.transform_to_ntt_inplace(encrypted)
        first, second = runtime.residues(encrypted)
        # Both halves carry the difference, because SEAL refuses a ciphertext whose second one is zero.
        difference = (second + (_PRIME_COLUMN - second_polynomial(seed, chunk))) % _PRIME_COLUMN
        product = runtime.ciphertext(np.stack([difference, difference]), ntt=True)
        runtime.evaluator.multiply_plain_inplace(product, self._factor)
        return np.asarray((first + runtime.residues(product)[0]) % _PRIME_COLUMN, dtype=np.uint64)

    def decrypt(self, residues: Residues) -> NDArray[np.int64]:
        """Decrypt one answer that `unpack` has checked, shape (2, 1, 8192); slots in (-t/2, t/2]."""
        runtime = seal_runtime()
        plaintext = seal.Plaintext()
        self._decryptor.decrypt(runtime.ciphertext(residues, ntt=False), plaintext)
        return np.array(runtime.encoder.decode_int64(plaintext), dtype=np.int64)

    def noise_budget(self, ciphertext: Any) -> int:
        """Bits of noise that SEAL's ciphertext still bears; for the tests of the bounds."""
        return int(self._decryptor.invariant_noise_budget(ciphertext))


def announce_key(key: LabelKey, terms: SessionTerms, identity: SigningKey) -> bytes:
    """The session's public key, signed."""
    message = GradientKey(session=terms.digest(), label_holder=terms.label_holder, public_key=key.public_bytes)
    return sign(identity, "gradient-key", message)


def round_residuals(residuals: NDArray[np.float64]) -> NDArray[np.int64]:
    """Residuals p - y in [-1, 1] as whole numbers in [-511, 511].

    Raises:
        GradientBounds: One is not finite or outside [-1, 1].
    """
    if not np.all(np.abs(residuals) <= 1.0):
        raise GradientBounds("expected residuals p - y within [-1, 1], found others; check the scores")
    return np.rint(residuals * RESIDUAL_LEVELS).astype(np.int64)


def encrypt_residuals(
    key: LabelKey,
    terms: SessionTerms,
    pass_number: int,
    residuals: NDArray[np.float64],
    rng: Rng,
    identity: SigningKey,
) -> bytes:
    """One pass's residuals, encrypted and signed; store the bytes and resend them, never encrypt a pass twice.

    Args:
        key: The session's key.
        terms: The session.
        pass_number: From 0.
        residuals: p - y per aligned row, zero for rows without a partner; shape (rows,).
        rng: Source of the seed.
        identity: The label holder's identity key.

    Raises:
        GradientBounds: A residual, or a sum over residuals, is outside its range.
    """
    expect_pass(pass_number, terms)
    shape = terms.shape
    if residuals.shape != (shape.rows,):
        raise GradientBounds(f"expected {shape.rows} residuals, found {residuals.size}")
    rounded = round_residuals(residuals)
    check_residual_bounds(rounded, noise=_NOISE_TAIL * LABEL_NOISE_SIGMA * GRADIENT_SCALE)
    seed = rng(32)
    first = np.stack([key.encrypt(slots, seed, chunk) for chunk, slots in enumerate(repeated_slots(rounded, shape))])
    message = EncryptedResiduals(
        session=terms.digest(),
        label_holder=terms.label_holder,
        seed=seed,
        first_polynomials=pack(first),
        **{"pass": pass_number},
    )
    return sign(identity, "encrypted-residuals", message)


def repeated_slots(values: NDArray[np.int64], shape: SlotShape) -> NDArray[np.int64]:
    """Rows in chunks, each repeated over the slots, shape (chunks, 8192)."""
    padded = np.zeros(shape.chunks * shape.chunk_rows, dtype=np.int64)
    padded[: shape.rows] = values
    slots = np.zeros((shape.chunks, POLY_MODULUS_DEGREE), dtype=np.int64)
    chunked = padded.reshape(shape.chunks, shape.chunk_rows)
    slots[:, : shape.chunk_rows * shape.repeat] = np.tile(chunked, (1, shape.repeat))
    return slots


@dataclass(frozen=True)
class OtherLabelHolders:
    """What masks one label holder's folded sums against the others (rule B6).

    Attributes:
        pairwise: (member id, seed shared with it for this pass and feature holder) of every other label holder.
        max_colluders: c of the agreement.
    """

    pairwise: Sequence[tuple[str, MaskSeed]] = ()
    max_colluders: int = 1

    def __post_init__(self) -> None:
        number = 1 + len(self.pairwise)
        if 1 < number < self.max_colluders + 2:
            raise TooFewContributors(
                f"expected one label holder or at least {self.max_colluders + 2} of them, found {number}; with so few"
                " a feature holder and one label holder would read the other's gradient"
            )


@dataclass(frozen=True, eq=False)
class Folded:
    """One answer of a label holder.

    Attributes:
        message: The signed sums; store them and the budget before sending.
        budget: What the labels have been asked, this answer included.
    """

    message: bytes
    budget: QueryBudget


def fold_products(
    key: LabelKey,
    terms: SessionTerms,
    pass_number: int,
    products: bytes,
    *,
    feature_holder: str,
    identity_key: bytes,
    budget: QueryBudget,
    rng: Rng,
    identity: SigningKey,
    candidates: int = 0,
    others: OtherLabelHolders | None = None,
) -> Folded:
    """Decrypt a feature holder's masked products and answer with one number per column (rule B1).

    Args:
        key: The session's key.
        terms: The session.
        pass_number: The pass that was encrypted.
        products: The signed message of `feature_holder`.
        feature_holder: Its member id.
        identity_key: Its identity key.
        budget: What was asked before.
        rng: Source of the label noise.
        identity: The label holder's identity key.
        candidates: Columns of candidate pairs allowed in this pass beyond the session's columns.
        others: The other label holders whose sums this one is masked against.

    Raises:
        MalformedGradient: Not the message it should be.
        QueryBudgetExceeded: The labels have been asked enough.
        WrongPass: Another session or pass, or a pass that was answered.
    """
    expect_pass(pass_number, terms)
    allowed = terms.columns[feature_holder] + candidates
    message = open_message(
        MaskedProducts,
        products,
        products_bytes(terms.shape, allowed),
        domain="masked-products",
        member=feature_holder,
        identity_key=identity_key,
    )
    expect_header(message, terms, pass_number, message.feature_holder == feature_holder)
    if message.columns != allowed:
        raise MalformedGradient(f"expected the products of {allowed} columns, found {message.columns}")
    residues = unpack_answers(message.ciphertexts, terms.shape.groups(allowed))
    charged = budget.charge(feature_holder, pass_number, allowed)
    sums = np.concatenate([_fold(key.decrypt(answer), terms.shape) for answer in residues])[:allowed]
    if budget.noisy:
        noise = np.rint(gaussian(fresh_stream(rng), LABEL_NOISE_SIGMA * GRADIENT_SCALE, allowed)).astype(np.int64)
        sums = (sums + noise) % PLAIN_MODULUS
    masked = sums.astype(np.uint64)
    for peer, seed in others.pairwise if others else ():
        mask = expand_modulo(seed, PLAIN_MODULUS, allowed)
        masked += mask if peer > terms.label_holder else np.uint64(PLAIN_MODULUS) - mask
        masked %= np.uint64(PLAIN_MODULUS)
    answer = FoldedSums(
        session=terms.digest(),
        label_holder=terms.label_holder,
        feature_holder=feature_holder,
        column_sums=masked.tolist(),
        **{"pass": pass_number},
    )
    return Folded(sign(identity, "folded-sums", answer), charged)


def _fold(slots: NDArray[np.int64], shape: SlotShape) -> NDArray[np.int64]:
    """Sum each segment of the slots modulo t: one number per column of the group, shape (repeat,)."""
    used = slots[: shape.chunk_rows * shape.repeat].reshape(shape.repeat, shape.chunk_rows)
    return np.asarray(used.sum(axis=1) % PLAIN_MODULUS, dtype=np.int64)  # 8192 * 2^35 fits
