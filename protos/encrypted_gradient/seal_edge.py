"""The SEAL edge of encrypted gradients: arrays of residues in, arrays of residues out.

Nothing received reaches SEAL's parsers (A5): received bytes have one exact length, become residues that are each
checked against their prime (`packing`), and only then are written, by us, in the layout of SEAL 4.x as bundled with
tenseal 0.3.18. SEAL's Python surface reads and writes named files alone, so objects pass through anonymous memory
files: a secret key is never on a disk.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import tenseal.sealapi as seal
import zstandard
from numpy.typing import NDArray

from protos.encrypted_gradient.errors import EncryptedGradientError
from protos.encrypted_gradient.parameters import (
    COEFF_MOD_BIT_SIZES,
    KEY_PRIMES,
    PLAIN_MODULUS,
    POLY_MODULUS_DEGREE,
    PRIMES,
)

Residues: TypeAlias = NDArray[np.uint64]
"""Residues of one ciphertext, shape (2, number of primes, 8192), or of one key polynomial."""

_HEADER = struct.Struct("<HBBBBHQ")  # magic, header size, version, compression, reserved, size
_MAGIC, _HEADER_BYTES, _MAJOR, _MINOR, _STORED, _ZSTD = 0xA15E, 16, 4, 3, 0, 2
_SCALE_AND_CORRECTION = struct.pack("<dQ", 1.0, 1)


class SealRuntime:
    """SEAL's context, evaluator and encoder for the pinned parameters; without any key."""

    def __init__(self) -> None:
        if not hasattr(os, "memfd_create"):
            raise EncryptedGradientError("expected an operating system with memfd_create (Linux), found another")
        parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
        parameters.set_poly_modulus_degree(POLY_MODULUS_DEGREE)
        parameters.set_coeff_modulus(seal.CoeffModulus.Create(POLY_MODULUS_DEGREE, list(COEFF_MOD_BIT_SIZES)))
        parameters.set_plain_modulus(seal.PlainModulus.Batching(POLY_MODULUS_DEGREE, PLAIN_MODULUS.bit_length()))
        self.context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
        found = self.context.key_context_data().parms()
        primes = tuple(int(prime.value()) for prime in found.coeff_modulus())
        if (primes, int(found.plain_modulus().value())) != (KEY_PRIMES, PLAIN_MODULUS):
            raise EncryptedGradientError(
                f"expected SEAL to choose the pinned primes {KEY_PRIMES}, found {primes}; install tenseal 0.3.18"
            )
        self.evaluator = seal.Evaluator(self.context)
        self.encoder = seal.BatchEncoder(self.context)
        self.first_id = list(self.context.first_parms_id())
        self.last_id = list(self.context.last_parms_id())
        self.key_id = list(self.context.key_parms_id())

    def encode(self, slots: NDArray[Any]) -> Any:
        """A plaintext of 8,192 slots; negative numbers stand for t minus their size."""
        plaintext = seal.Plaintext()
        self.encoder.encode(slots.tolist(), plaintext)
        return plaintext

    def encode_ntt(self, slots: NDArray[Any]) -> Any:
        """A plaintext ready to multiply ciphertexts in NTT form (196 KB)."""
        plaintext = self.encode(slots)
        self.evaluator.transform_to_ntt_inplace(plaintext, self.first_id)
        return plaintext

    def ciphertext(self, residues: Residues, *, ntt: bool) -> Any:
        """SEAL's object for residues that were checked, shape (2, primes, 8192) with three primes or one."""
        parms_id = self.first_id if residues.shape[1] == len(PRIMES) else self.last_id
        made = seal.Ciphertext()
        _load(made, self.context, _ciphertext_bytes(residues, parms_id, ntt=ntt))
        return made

    def residues(self, ciphertext: Any) -> Residues:
        """Residues of an object of this process, shape (2, primes, 8192)."""
        shape = (ciphertext.size(), ciphertext.coeff_modulus_size(), POLY_MODULUS_DEGREE)
        return _tail(_saved(ciphertext), int(np.prod(shape))).reshape(shape)

    def public_key(self, residues: Residues) -> Any:
        """SEAL's object for a public key that was checked, shape (2, 4, 8192), in NTT form."""
        made = seal.PublicKey()
        _load(made, self.context, _ciphertext_bytes(residues, self.key_id, ntt=True))
        return made

    def public_key_residues(self, public_key: Any) -> Residues:
        """Residues of a public key of this process, shape (2, 4, 8192)."""
        shape = (2, len(KEY_PRIMES), POLY_MODULUS_DEGREE)
        return _tail(_saved(public_key), int(np.prod(shape))).reshape(shape)

    def secret_factor(self, secret_key: Any) -> Any:
        """The secret key as a plaintext that multiplies first-level ciphertexts in NTT form."""
        shape = (len(KEY_PRIMES), POLY_MODULUS_DEGREE)
        residues = _tail(_saved(secret_key), int(np.prod(shape))).reshape(shape)[: len(PRIMES)]
        body = struct.pack("<4Qqd", *self.first_id, residues.size, 1.0) + _array(residues)
        made = seal.Plaintext()
        _load(made, self.context, _wrap(body))
        return made


@cache
def seal_runtime() -> SealRuntime:
    """The runtime of this process; keyless, so it may be shared."""
    return SealRuntime()


def _wrap(body: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, _HEADER_BYTES, _MAJOR, _MINOR, _STORED, 0, _HEADER_BYTES + len(body)) + body


def _array(residues: Residues) -> bytes:
    return _wrap(struct.pack("<Q", residues.size) + residues.astype("<u8", copy=False).tobytes())


def _ciphertext_bytes(residues: Residues, parms_id: list[int], *, ntt: bool) -> bytes:
    polynomials, primes, degree = residues.shape
    head = struct.pack("<4QB3Q", *parms_id, ntt, polynomials, degree, primes)
    return _wrap(head + _SCALE_AND_CORRECTION + _array(residues))


@contextmanager
def _memory_file(content: bytes = b"") -> Iterator[int]:
    """An anonymous file in memory, seen by this process alone and gone when it is closed."""
    descriptor = os.memfd_create("tallystick", os.MFD_CLOEXEC)
    try:
        if content:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(content)
        yield descriptor
    finally:
        os.close(descriptor)


def _load(target: Any, context: Any, content: bytes) -> None:
    with _memory_file(content) as descriptor:
        target.load(context, f"/proc/self/fd/{descriptor}")


def _saved(source: Any) -> bytes:
    with _memory_file() as descriptor:
        source.save(f"/proc/self/fd/{descriptor}")
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _tail(saved: bytes, words: int) -> Residues:
    """The last `words` words of an object that this process saved: its residues, whatever stands before."""
    magic, _, _, _, compression, _, size = _HEADER.unpack_from(saved)
    if (magic, compression, size) != (_MAGIC, _ZSTD, len(saved)):
        raise EncryptedGradientError("expected SEAL to save with zstd, found another format; install tenseal 0.3.18")
    body = zstandard.ZstdDecompressor().decompressobj().decompress(saved[_HEADER_BYTES:])
    return np.frombuffer(body, dtype="<u8", offset=len(body) - 8 * words)
