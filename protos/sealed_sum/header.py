"""What defines one sum. Everything a contribution depends on is hashed into its mask seeds (A3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast

from protos.sealed_sum import sealed_sum_pb2 as pb
from protos.sealed_sum.canonical import digest
from protos.sealed_sum.errors import MalformedMessage
from protos.sealed_sum.layout import OpenedSum
from protos.sealed_sum.wire import DIGEST_BYTES, expect_length, expect_text

InputClass = Literal["static", "step"]
NO_MODEL = bytes(DIGEST_BYTES)
FIRST = bytes(DIGEST_BYTES)
_K_MAX = (1 << 63) - 1


@dataclass(frozen=True)
class SumHeader:
    """Header of sum k. Nodes build it themselves, from what they see; the coordinator's word is not in it.

    Attributes:
        epoch_id: The epoch, and with it cohort, agreement and run.
        k: Number of the sum, strictly increasing in an epoch.
        purpose: What the sum is for, e.g. "train".
        task: The agreement's task.
        input_class: "static" if the input depends on the member's data alone, "step" if on a model too.
        layout_digest: `Layout.digest()`.
        model_digest: Hash of the model the input is computed on, zeros before any.
        parameters_digest: Hash of hyper-parameters and of the pinned encryption parameters.
        previous: `chain(...)` of the sum before, zeros for the first.
    """

    epoch_id: bytes
    k: int
    purpose: str
    task: str
    input_class: InputClass
    layout_digest: bytes
    model_digest: bytes
    parameters_digest: bytes
    previous: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.k <= _K_MAX:
            raise MalformedMessage(f"expected a sum number from 0 to 2^63 - 1, found {self.k}")
        expect_text(self.purpose, "purpose")
        expect_text(self.task, "task")
        if self.input_class not in {"static", "step"}:
            raise MalformedMessage("expected input class static or step, found another")
        for name in ("epoch_id", "layout_digest", "model_digest", "parameters_digest", "previous"):
            expect_length(getattr(self, name), DIGEST_BYTES, name)

    def digest(self) -> bytes:
        """h_k, 32 bytes: in every seed, key, tag and signature of the sum."""
        return digest(
            "header",
            self.epoch_id,
            self.k,
            self.purpose,
            self.task,
            self.input_class,
            self.layout_digest,
            self.model_digest,
            self.parameters_digest,
            self.previous,
        )

    def class_key(self) -> bytes:
        """What "the same input" means (A7), 32 bytes.

        Layout and, for static inputs, model are left out: another scale or model does not make other data of it.
        """
        model = self.model_digest if self.input_class == "step" else NO_MODEL
        return digest("input-class", self.input_class, self.purpose, self.task, model)

    def stored(self) -> pb.StoredHeader:
        """For the node's own disk."""
        return pb.StoredHeader(
            epoch_id=self.epoch_id,
            k=self.k,
            purpose=self.purpose,
            task=self.task,
            input_class=self.input_class,
            layout_digest=self.layout_digest,
            model_digest=self.model_digest,
            parameters_digest=self.parameters_digest,
            previous=self.previous,
        )

    @classmethod
    def from_stored(cls, stored: pb.StoredHeader) -> Self:
        """Load what `stored` gave."""
        return cls(
            stored.epoch_id,
            stored.k,
            stored.purpose,
            stored.task,
            cast("InputClass", stored.input_class),
            stored.layout_digest,
            stored.model_digest,
            stored.parameters_digest,
            stored.previous,
        )


def chain(previous_h: bytes, opened: OpenedSum, survivors: Sequence[str]) -> bytes:
    """`previous` of the next header: binds h_k, the opened integers and their U, 32 bytes.

    Integers and not model parameters: a last-bit difference between two processors is not an attack.
    """
    names = sorted(opened.integers)
    parts: list[bytes | str | int] = [previous_h, opened.contributors, opened.layout.digest(), len(survivors)]
    parts += sorted(survivors)
    for name in names:
        parts += [name, opened.integers[name].astype("<i8").tobytes()]
    return digest("chain", *parts)
