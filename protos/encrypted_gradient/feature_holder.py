"""The feature holder's side: multiply encrypted residuals by its columns, hide the columns, unmask the sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from protos.encrypted_gradient.encrypted_gradient_pb2 import (
    EncryptedResiduals,
    FoldedSums,
    GradientKey,
    MaskedProducts,
)
from protos.encrypted_gradient.errors import GradientBounds, MalformedGradient, WrongPass
from protos.encrypted_gradient.messages import expect_header, open_message
from protos.encrypted_gradient.packing import pack_answers, unpack, unpack_key
from protos.encrypted_gradient.parameters import (
    GRADIENT_SCALE,
    KEY_PRIMES,
    PLAIN_MODULUS,
    POLY_MODULUS_DEGREE,
    PRIMES,
)
from protos.encrypted_gradient.sampling import Rng, Words, flooding, fresh_stream, uniform_slots
from protos.encrypted_gradient.seal_edge import seal_runtime
from protos.encrypted_gradient.seeded import second_polynomial
from protos.encrypted_gradient.session import SessionTerms, SlotShape, expect_pass, residuals_bytes
from protos.encrypted_gradient.support import CheckedColumns, Levels
from protos.sealed_sum.keys import SigningKey
from protos.sealed_sum.wire import sign

DEFAULT_CACHED_PLAINTEXTS = 1024  # 196 KB each


class PreparedColumns:
    """Basis columns as plaintexts in NTT form, made once and used in every pass.

    They come from `CheckedColumns` alone, so that nothing unchecked can be multiplied.
    """

    def __init__(
        self,
        checked: CheckedColumns,
        label_holder: str,
        shape: SlotShape,
        *,
        max_cached: int = DEFAULT_CACHED_PLAINTEXTS,
        known: PreparedColumns | None = None,
    ) -> None:
        """Encode.

        Args:
            checked: This member's columns for all label holders.
            label_holder: Whose rows.
            shape: How they lie in slots.
            max_cached: Plaintexts kept in memory; the others are encoded again in every pass.
            known: Earlier columns whose plaintexts are taken over where they are the same.

        Raises:
            GradientBounds: Another number of rows.
        """
        levels = checked.levels[label_holder]
        if len(levels) != shape.rows:
            raise GradientBounds(f"expected columns of {shape.rows} rows, found {len(levels)}")
        self.shape = shape
        self.columns = int(levels.shape[1])
        self._levels = levels
        self._cache: dict[tuple[int, int], Any] = {}
        for group in range(shape.groups(self.columns)):
            same = known is not None and known.holds(self._group(group), group)
            for chunk in range(shape.chunks):
                if len(self._cache) >= max_cached:
                    return
                made = known.plaintext(chunk, group) if known is not None and same else self._encode(chunk, group)
                self._cache[chunk, group] = made

    def _group(self, group: int) -> Levels:
        return self._levels[:, group * self.shape.repeat : (group + 1) * self.shape.repeat]

    def holds(self, columns: Levels, group: int) -> bool:
        """Whether this group of columns is exactly `columns`."""
        return bool(np.array_equal(self._group(group), columns))

    def plaintext(self, chunk: int, group: int) -> Any | None:
        """Columns `group * repeat` and following, rows of `chunk`; None where all of them are zero."""
        if (chunk, group) in self._cache:
            return self._cache[chunk, group]
        return self._encode(chunk, group)

    def _encode(self, chunk: int, group: int) -> Any | None:
        shape = self.shape
        rows = slice(chunk * shape.chunk_rows, (chunk + 1) * shape.chunk_rows)
        values = self._group(group)[rows]
        if not values.any():
            return None  # SEAL refuses to multiply by zero
        slots = np.zeros((shape.repeat, shape.chunk_rows), dtype=np.int64)
        slots[: values.shape[1], : values.shape[0]] = values.T
        padded = np.zeros(POLY_MODULUS_DEGREE, dtype=np.int64)
        padded[: slots.size] = slots.reshape(-1)
        return seal_runtime().encode_ntt(padded)


@dataclass(frozen=True, eq=False)
class MaskedAnswer:
    """What a feature holder sends in one pass, and what it keeps.

    Attributes:
        message: The signed products; store them and resend the bytes, never answer a pass twice.
        mask_sums: Sum of the mask over each column's slots modulo t, secret; shape (columns,).
    """

    message: bytes
    mask_sums: Words = field(repr=False)


class QueryKey:
    """A label holder's public key that was checked against its signature."""

    def __init__(self, message: bytes, terms: SessionTerms, identity_key: bytes) -> None:
        """Check and load.

        Raises:
            BadSignature: Not signed by the label holder.
            MalformedGradient: Not a public key under the pinned parameters.
            WrongPass: A key of another session.
        """
        size = 2 * len(KEY_PRIMES) * POLY_MODULUS_DEGREE * 7
        opened = open_message(
            GradientKey,
            message,
            size,
            domain="gradient-key",
            member=terms.label_holder,
            identity_key=identity_key,
        )
        if opened.session != terms.digest() or opened.label_holder != terms.label_holder:
            raise WrongPass("expected a key for this session, found one for another")
        runtime = seal_runtime()
        public = runtime.public_key(unpack_key(opened.public_key))
        self._encryptor = seal.Encryptor(runtime.context, public)

    def encrypt(self, slots: NDArray[np.uint64]) -> Any:
        """A fresh public-key encryption, three primes, coefficient form."""
        encrypted = seal.Ciphertext()
        self._encryptor.encrypt(seal_runtime().encode(slots), encrypted)
        return encrypted


def multiply_residuals(
    columns: PreparedColumns,
    query: bytes,
    key: QueryKey,
    terms: SessionTerms,
    pass_number: int,
    *,
    feature_holder: str,
    label_identity_key: bytes,
    rng: Rng,
    identity: SigningKey,
) -> MaskedAnswer:
    """Products of the encrypted residuals with every column: sum ct * a + Enc_pk(mask) + E, on one prime (rule B2).

    Args:
        columns: The feature holder's columns.
        query: The label holder's signed message.
        key: Its checked public key.
        terms: The session.
        pass_number: From 0.
        feature_holder: This member's id.
        label_identity_key: The label holder's identity key.
        rng: Source of masks and flooding; fresh in every answer.
        identity: This member's identity key.

    Raises:
        MalformedGradient: The query is not the message it should be.
        WrongPass: It belongs to another session or pass.
    """
    expect_pass(pass_number, terms)
    shape = terms.shape
    if columns.shape != shape:
        raise GradientBounds("expected columns prepared for this session's shape, found others")
    opened = open_message(
        EncryptedResiduals,
        query,
        residuals_bytes(shape),
        domain="encrypted-residuals",
        member=terms.label_holder,
        identity_key=label_identity_key,
    )
    expect_header(opened, terms, pass_number, opened.label_holder == terms.label_holder)
    if len(opened.seed) != 32:
        raise MalformedGradient(f"expected a seed of 32 bytes, found {len(opened.seed)}")
    first = unpack(
        opened.first_polynomials, (shape.chunks, len(PRIMES), POLY_MODULUS_DEGREE), PRIMES, "encrypted residuals"
    )
    runtime = seal_runtime()
    encrypted = [
        runtime.ciphertext(np.stack([first[chunk], second_polynomial(opened.seed, chunk)]), ntt=True)
        for chunk in range(shape.chunks)
    ]
    stream = fresh_stream(rng)
    groups = shape.groups(columns.columns)
    masks = uniform_slots(stream, (groups, POLY_MODULUS_DEGREE))
    answers = np.empty((groups, 2, 1, POLY_MODULUS_DEGREE), dtype=np.uint64)
    for group in range(groups):
        total = hide_columns(product_of_group(columns, encrypted, group), key.encrypt(masks[group]), stream)
        runtime.evaluator.mod_switch_to_inplace(total, runtime.last_id)
        answers[group] = runtime.residues(total)
    message = MaskedProducts(
        session=terms.digest(),
        feature_holder=feature_holder,
        columns=columns.columns,
        ciphertexts=pack_answers(answers),
        **{"pass": pass_number},
    )
    used = masks[:, : shape.chunk_rows * shape.repeat].reshape(groups, shape.repeat, shape.chunk_rows)
    mask_sums = (used.sum(axis=2) % np.uint64(PLAIN_MODULUS)).reshape(-1)[: columns.columns]
    return MaskedAnswer(sign(identity, "masked-products", message), mask_sums)


def product_of_group(columns: PreparedColumns, encrypted: Sequence[Any], group: int) -> Any | None:
    """Sum over chunks of ct * a, three primes, coefficient form. It still shows the columns: never send it.

    Returns:
        None where all of the columns are zero on these rows: nobody that this member knows is among them.
    """
    evaluator = seal_runtime().evaluator
    total = product = None
    for chunk, ciphertext in enumerate(encrypted):
        plaintext = columns.plaintext(chunk, group)
        if plaintext is None:
            continue
        if total is None:
            total = seal.Ciphertext()
            evaluator.multiply_plain(ciphertext, plaintext, total)
        else:
            product = product or seal.Ciphertext()
            evaluator.multiply_plain(ciphertext, plaintext, product)
            evaluator.add_inplace(total, product)
    if total is not None:
        evaluator.transform_from_ntt_inplace(total)
    return total


def hide_columns(total: Any | None, mask: Any, stream: Rng) -> Any:
    """Add Enc_pk(mask) and E to a product (rule B2); without a product, what is left looks the same.

    The fresh encryption makes the second polynomial independent of the columns; E drowns what the noise says.
    """
    runtime = seal_runtime()
    if total is None:
        total = mask
    else:
        runtime.evaluator.add_inplace(total, mask)
    noise = np.zeros((2, len(PRIMES), POLY_MODULUS_DEGREE), dtype=np.uint64)
    noise[0] = flooding(stream, PRIMES, POLY_MODULUS_DEGREE)
    runtime.evaluator.add_inplace(total, runtime.ciphertext(noise, ntt=False))
    return total


def open_folded(
    message: bytes,
    terms: SessionTerms,
    pass_number: int,
    *,
    feature_holder: str,
    columns: int,
    label_identity_key: bytes,
) -> Words:
    """A label holder's answer, still masked: one number per column modulo t, shape (columns,).

    Raises:
        MalformedGradient: Another number of sums than columns, or a sum that is not below t (B1).
        WrongPass: Another session, pass or recipient.
    """
    opened = open_message(
        FoldedSums,
        message,
        8 * columns,
        domain="folded-sums",
        member=terms.label_holder,
        identity_key=label_identity_key,
    )
    expect_header(
        opened,
        terms,
        pass_number,
        opened.label_holder == terms.label_holder and opened.feature_holder == feature_holder,
    )
    if len(opened.column_sums) != columns:
        raise MalformedGradient(f"expected one sum for each of {columns} columns, found {len(opened.column_sums)}")
    sums = np.array(opened.column_sums, dtype=np.uint64)
    if np.any(sums >= np.uint64(PLAIN_MODULUS)):
        raise MalformedGradient("expected sums below the plain modulus, found a larger one")
    return sums


def unmask(folded: Sequence[Words], mask_sums: Sequence[Words]) -> NDArray[np.float64]:
    """The gradient from all label holders' answers.

    Args:
        folded: One vector per label holder; their masks against each other cancel in the sum.
        mask_sums: What this member added to each label holder's products.

    Returns:
        sum over rows of residual * basis per column, with the label noise; shape (columns,).
    """
    total = np.zeros(len(folded[0]), dtype=np.uint64)
    for sums, mask in zip(folded, mask_sums, strict=True):
        total += sums + (np.uint64(PLAIN_MODULUS) - mask)
        total %= np.uint64(PLAIN_MODULUS)
    signed = total.astype(np.int64)
    signed[signed > PLAIN_MODULUS // 2] -= PLAIN_MODULUS
    return np.asarray(signed / GRADIENT_SCALE)
