"""Asking the scoring gateway: one connection over mutual TLS, and one sentence for whatever it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policies.closed_model import one_line, read_bounded, shown
from policies.errors import SettingsRefused, UserError
from policies.grant_files import read_grant
from policies.grants import Grant
from policies.key_files import load_tls_key
from policies.network_address import split_address
from protos.masked_sum.request import MAX_GRANT_BYTES, TOKEN_BYTES
from protos.scoring.v1 import scoring_pb2 as pb

if TYPE_CHECKING:
    import grpc

METHOD = "/protos.scoring.v1.Scoring/ScoreBatch"
MAX_MESSAGE_BYTES = 40 << 20

Gateway = Annotated[str | None, typer.Option(help="host:port of the scoring gateway.", show_default=False)]
Ca = Annotated[Path | None, typer.Option("--ca", help="The consortium's authority (.crt).", show_default=False)]
Cert = Annotated[
    Path | None, typer.Option("--cert", help="This client's certificate (.crt), its key beside it.", show_default=False)
]
Key = Annotated[Path | None, typer.Option("--key", help="Its key (.pem), if it is elsewhere.", show_default=False)]
GrantFile = Annotated[Path | None, typer.Option("--grant", help="The grant under which is asked.", show_default=False)]
Purpose = Annotated[
    str | None, typer.Option(help="What the answers are used for; the grant's, if it names one.", show_default=False)
]
TokenKeyFile = Annotated[
    Path | None, typer.Option("--token-key", help="The members' token key, if this caller has it.", show_default=False)
]
Tokens = Annotated[
    list[str] | None, typer.Option("--token", help="A token of 64 hexadecimal digits; repeated.", show_default=False)
]


class GatewayRefused(UserError):
    """The gateway or the nodes did not answer.

    Attributes:
        code: For programs, as the gateway gave it; "connection" if it was not reached.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class Caller:
    """Where the gateway is, who asks, and under which grant.

    Attributes:
        address: host:port.
        ca: The authority's certificate.
        certificate: This client's.
        key: Its key.
        grant: What the grant says; its signature holds.
        signed_grant: Its bytes.
        purpose: What the answers are used for.
    """

    address: str
    ca: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    grant: Grant
    signed_grant: bytes = field(repr=False)
    purpose: str

    @classmethod
    def of_options(
        cls,
        gateway: str | None,
        ca: Path | None,
        cert: Path | None,
        key: Path | None,
        grant: Path | None,
        purpose: str | None,
    ) -> Caller:
        """Check what the command line says.

        Raises:
            BadParameter: An option is missing or not of its form.
            UserError: A file cannot be used.
        """
        if gateway is None or ca is None or cert is None or grant is None:
            named = {"--gateway": gateway, "--ca": ca, "--cert": cert, "--grant": grant}
            missing = [name for name, value in named.items() if value is None]
            raise typer.BadParameter(f"expected {', '.join(missing)} to ask the gateway, found none")
        try:
            split_address(gateway)
        except ValueError as problem:
            raise typer.BadParameter(f"--gateway: {problem}") from None
        key_path = key or cert.with_suffix(".pem")
        load_tls_key(key_path)
        found = read_grant(grant)
        if purpose is None and len(found.purposes) != 1:
            raise typer.BadParameter(
                f"--purpose: expected one of the grant's purposes ({', '.join(found.purposes)}), found none"
            )
        return cls(
            gateway,
            read_bounded(ca, SettingsRefused),
            read_bounded(cert, SettingsRefused),
            read_bounded(key_path, SettingsRefused),
            found,
            read_bounded(grant, SettingsRefused, MAX_GRANT_BYTES),
            purpose or found.purposes[0],
        )

    def ask(self, tokens: Sequence[bytes], task: str, version: str, timeout_s: float) -> pb.ScoreBatchReply:
        """All entities in one masked sum.

        Raises:
            GatewayRefused: There is no answer, with the reason.
        """
        import grpc

        request = pb.ScoreBatchRequest(
            entities=b"".join(tokens),
            task=task,
            model_version=version,
            purpose=self.purpose,
            grant=self.signed_grant,
        )
        credentials = grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)
        options = (
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        )
        with grpc.secure_channel(self.address, credentials, options=options) as channel:
            call = channel.unary_unary(
                METHOD,
                request_serializer=pb.ScoreBatchRequest.SerializeToString,
                response_deserializer=pb.ScoreBatchReply.FromString,
            )
            try:
                reply: pb.ScoreBatchReply = call(request, timeout=timeout_s)
            except grpc.RpcError as error:
                raise _refusal(self.address, error) from None
        return reply


def tokens_of_hex(texts: Sequence[str]) -> list[bytes]:
    """Tokens as people write them.

    Raises:
        BadParameter: One is none.
    """
    found = []
    for text in texts:
        try:
            token = bytes.fromhex(text)
        except ValueError:
            token = b""
        if len(token) != TOKEN_BYTES:
            raise typer.BadParameter(f"--token: expected {2 * TOKEN_BYTES} hexadecimal digits, found {shown(text)}")
        found.append(token)
    return found


def require_covered(caller: Caller, tokens: Sequence[bytes]) -> None:
    """Return if the grant covers these entities; the nodes would refuse, and charge nothing.

    Raises:
        UserError: One is not covered.
    """
    missing = sum(token not in caller.grant.places for token in tokens)
    if missing:
        raise UserError(
            f"expected a grant that covers what is asked, found {missing} of {len(tokens)} not covered; ask for another"
            " grant, or check how identifiers are written."
        )


def _refusal(address: str, error: grpc.RpcError) -> GatewayRefused:
    import grpc

    status, details = error.code(), one_line(error.details() or "")
    code, colon, sentence = details.partition(": ")
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return GatewayRefused("deadline", f"Expected an answer of {address} in time, found none; try again later.")
    if status is grpc.StatusCode.PERMISSION_DENIED and not colon:
        return GatewayRefused(
            "client", f"The gateway at {address} does not know this client ({details}); have its operator admit it."
        )
    if status in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN} and not code.replace("_", "").isalpha():
        return GatewayRefused(
            "connection",
            f"Expected the scoring gateway at {address}, found no connection; check address, --ca, --cert and --key"
            f" ({details[:200]}).",
        )
    if not colon:
        return GatewayRefused("gateway", f"The gateway at {address} refused: {details[:300]}.")
    return GatewayRefused(code, f"{sentence.rstrip('.')} ({code}).")
