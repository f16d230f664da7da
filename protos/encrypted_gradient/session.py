"""What both sides of a session must mean alike: who, which rows, how slots are laid out, and how much may be asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from protos.encrypted_gradient.errors import GradientBounds, QueryBudgetExceeded, WrongPass
from protos.encrypted_gradient.packing import answer_bytes, packed_bytes
from protos.encrypted_gradient.parameters import (
    MAX_CHUNKS,
    MAX_COLUMNS,
    MAX_PASSES,
    MAX_REPEAT,
    POLY_MODULUS_DEGREE,
    PRIMES,
    gradient_parameters_digest,
)
from protos.sealed_sum.canonical import digest


@dataclass(frozen=True)
class SlotShape:
    """How rows and columns lie in slots.

    A chunk of rows is repeated `repeat` times over a ciphertext's slots; a plaintext holds as many columns side by
    side, so one product serves them all.

    Attributes:
        rows: Aligned training rows of the label holder.
        repeat: How often a chunk is repeated, 1 to 16.
    """

    rows: int
    repeat: int

    def __post_init__(self) -> None:
        if self.rows < 1 or not 1 <= self.repeat <= MAX_REPEAT or self.chunks > MAX_CHUNKS:
            raise GradientBounds(
                f"expected 1 to {MAX_REPEAT} repeats of rows in at most {MAX_CHUNKS} ciphertexts, found"
                f" {self.rows} rows and {self.repeat} repeats; use fewer rows or repeats"
            )

    @property
    def chunk_rows(self) -> int:
        """Rows of one ciphertext."""
        return POLY_MODULUS_DEGREE // self.repeat

    @property
    def chunks(self) -> int:
        """Ciphertexts of one pass's residuals."""
        return -(-self.rows // self.chunk_rows)

    def groups(self, columns: int) -> int:
        """Ciphertexts of one pass's answer on so many columns."""
        if not 1 <= columns <= MAX_COLUMNS:
            raise GradientBounds(f"expected 1 to {MAX_COLUMNS} columns at a feature holder, found {columns}")
        return -(-columns // self.repeat)

    @classmethod
    def balanced(cls, rows: int, columns: Mapping[str, int]) -> Self:
        """The repeat that moves the fewest bytes, from public numbers: rows, and columns per feature holder."""

        def moved(shape: SlotShape) -> int:
            # Residuals go up once and down to each feature holder; answers go up and down once.
            up = residuals_bytes(shape) * (1 + len(columns))
            return up + sum(2 * products_bytes(shape, number) for number in columns.values())

        possible = [
            cls(rows, repeat)
            for repeat in range(1, MAX_REPEAT + 1)
            if -(-rows // (POLY_MODULUS_DEGREE // repeat)) <= MAX_CHUNKS
        ]
        if not possible:
            raise GradientBounds(f"expected at most {MAX_CHUNKS * POLY_MODULUS_DEGREE} rows, found {rows}")
        return min(possible, key=lambda shape: (moved(shape), shape.repeat))


def residuals_bytes(shape: SlotShape) -> int:
    """Packed bytes of one pass's residuals."""
    return packed_bytes(shape.chunks * len(PRIMES) * POLY_MODULUS_DEGREE)


def products_bytes(shape: SlotShape, columns: int) -> int:
    """Packed bytes of one answer."""
    return answer_bytes(shape.groups(columns))


@dataclass(frozen=True)
class SessionTerms:
    """Everything that defines what a session's numbers mean; its digest is in every message.

    Attributes:
        epoch_id: 32 bytes of the key epoch that the members opened.
        label_holder: Member id.
        columns: Columns per feature holder, candidate pairs not counted.
        shape: Rows and repeats.
        alignment_digest: Hash of what the two sides agreed their rows to be, 32 bytes.
        passes: Passes of the session, candidate pairs' pass included.
        holdout_rows: Aligned rows on which the model is evaluated at the end.
    """

    epoch_id: bytes
    label_holder: str
    columns: Mapping[str, int]
    shape: SlotShape
    alignment_digest: bytes
    passes: int
    holdout_rows: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.passes <= MAX_PASSES:
            raise QueryBudgetExceeded(
                f"expected at most {MAX_PASSES} passes over one label holder's labels, found {self.passes}"
            )

    def digest(self) -> bytes:
        """32 bytes."""
        parts: list[str | int] = []
        for member in sorted(self.columns):
            parts += [member, self.columns[member]]
        return digest(
            "encrypted-gradient/session",
            gradient_parameters_digest(),
            self.epoch_id,
            self.label_holder,
            self.alignment_digest,
            self.shape.rows,
            self.shape.repeat,
            self.passes,
            self.holdout_rows,
            *parts,
        )


@dataclass(frozen=True)
class QueryBudget:
    """What has been asked about one label holder's rows; kept by the label holder, durable with its answers.

    Exact sums over subsets of the rows solve for the labels once there are as many as rows (Dinur and Nissim, 2003).

    Attributes:
        rows: Rows of the labels.
        asked: Columns answered so far, all passes and runs together.
        answered: (feature holder, pass) pairs that were answered.
        noisy: Whether answers carry label noise; without it a tenth of the budget is left.
    """

    rows: int
    asked: int = 0
    answered: frozenset[tuple[str, int]] = field(default_factory=frozenset)
    noisy: bool = True

    @property
    def allowed(self) -> int:
        """Columns times passes that may be asked at all."""
        return self.rows if self.noisy else self.rows // 10

    def charge(self, feature_holder: str, pass_number: int, columns: int) -> Self:
        """The budget after one more answer; store it before the answer leaves.

        Raises:
            WrongPass: This pass was answered: a second answer would carry fresh noise to average away.
            QueryBudgetExceeded: Too many columns, or too many passes (B4, B5).
        """
        if (feature_holder, pass_number) in self.answered:
            raise WrongPass(
                f"expected one answer to {feature_holder} in pass {pass_number}, found a second request; resend the"
                " stored answer"
            )
        passes = 1 + sum(1 for member, _ in self.answered if member == feature_holder)
        if passes > MAX_PASSES:
            raise QueryBudgetExceeded(
                f"expected at most {MAX_PASSES} passes for {feature_holder}, found one more; use other labels"
            )
        if self.asked + columns > self.allowed:
            raise QueryBudgetExceeded(
                f"expected at most {self.allowed} column sums over {self.rows} labels, found"
                f" {self.asked + columns}; use fewer columns, pairs, passes or runs"
            )
        return replace(self, asked=self.asked + columns, answered=self.answered | {(feature_holder, pass_number)})


def expect_pass(pass_number: int, terms: SessionTerms) -> int:
    """Return `pass_number` if the session has it."""
    if not 0 <= pass_number < terms.passes:
        raise WrongPass(f"expected a pass in [0, {terms.passes}), found {pass_number}")
    return pass_number


def gaussian_mu(passes: int, features: int, sigma: float) -> float:
    """Gaussian differential privacy parameter of a label under these answers (Dong, Roth and Su, 2022).

    A hurdle for single rows; with the default 2 rows of noise it is far above 1 and no strong guarantee (B4).
    """
    return math.sqrt(passes * features) / sigma
