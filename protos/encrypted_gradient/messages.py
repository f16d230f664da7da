"""Reading this protocol's messages: length first, then signature, then a strict parse, then session and pass."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from protos.encrypted_gradient.encrypted_gradient_pb2 import (
    EncryptedResiduals,
    FoldedSums,
    MaskedProducts,
    MaskedScores,
)
from protos.encrypted_gradient.errors import MalformedGradient, WrongPass
from protos.encrypted_gradient.session import SessionTerms
from protos.sealed_sum.errors import MalformedMessage
from protos.sealed_sum.wire import OVERHEAD_BYTES, open_signed

_Message = TypeVar("_Message", bound=Message)
_OfPass = EncryptedResiduals | MaskedProducts | FoldedSums | MaskedScores


def open_message(
    kind: type[_Message], data: bytes, payload_bytes: int, *, domain: str, member: str, identity_key: bytes
) -> _Message:
    """Check length and signature, then parse.

    Raises:
        MalformedGradient: Not the message it should be.
        BadSignature: Not signed by `member`.
    """
    try:
        return open_signed(
            kind, data, payload_bytes + OVERHEAD_BYTES, domain=domain, member=member, identity_key=identity_key
        )
    except MalformedMessage as error:
        raise MalformedGradient(str(error)) from error


def expect_header(message: _OfPass, terms: SessionTerms, pass_number: int, named_right: bool) -> None:
    """Refuse a message of another session, pass or member.

    Raises:
        WrongPass: It is.
    """
    found = int(getattr(message, "pass"))
    if message.session != terms.digest() or found != pass_number or not named_right:
        raise WrongPass(
            f"expected a message of this session's pass {pass_number}, found one of another session, pass ({found})"
            " or member"
        )
