"""What can go wrong between a node and its coordinator, sorted into what a retry mends and what it does not."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from policies.errors import UserError
from protos.fleet_stream.records import NOT_ADMITTED_HEADER


class FleetError(UserError):
    """The coordinator will not have this node as it is; somebody must change something."""


class ConnectionLost(Exception):
    """The coordinator could not be reached, or went away; trying again later may succeed.

    Attributes:
        status: HTTP status of the coordinator's answer, if there was one.
        hung_up: The TLS handshake succeeded on our side, and then the connection was closed without an answer.
    """

    def __init__(self, message: str, *, status: int | None = None, hung_up: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.hung_up = hung_up


def sort_error(error: httpx.HTTPError, address: str) -> FleetError | ConnectionLost:
    """Tell what kind of failure an HTTP request met.

    Args:
        error: As raised by the HTTP client.
        address: Of the coordinator, for the sentence.
    """
    if isinstance(error, httpx.HTTPStatusError):
        return _sort_status(error.response, address)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return FleetError(
                f"The certificate of {address} is not signed by the CA file of this node's settings, or names "
                f"another host ({cause.verify_message}); check the address and the CA file."
            )
        # With TLS 1.3 the server looks at our certificate after our side has finished the handshake, so that its
        # refusal arrives as an alert on the first read.
        if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
            return certificate_refused(address)
    hung_up = isinstance(error, httpx.RemoteProtocolError | httpx.ReadError)
    return ConnectionLost(f"{type(error).__name__}: {error}", hung_up=hung_up)


def certificate_refused(address: str) -> FleetError:
    """The coordinator's TLS layer does not accept this node's certificate."""
    return FleetError(
        f"{address} refused this node's certificate; it must be signed by the coordinator's CA and still be valid: "
        "ask its operator for a new one."
    )


def _sort_status(response: httpx.Response, address: str) -> FleetError | ConnectionLost:
    if response.status_code == httpx.codes.FORBIDDEN and NOT_ADMITTED_HEADER in response.headers:
        return FleetError(
            f"{address} has not admitted the key of this node's certificate; ask its operator to run "
            "`tallystick coordinator admit` with it."
        )
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return FleetError(
            f"{address} does not accept this node's signatures{_clock_difference(response)}; "
            "the clocks may differ by a few seconds at most: synchronise them (NTP)."
        )
    return ConnectionLost(f"status {response.status_code}: {response.text[:200]}", status=response.status_code)


def _clock_difference(response: httpx.Response) -> str:
    """State by how much the clocks differ, as far as the answer's Date header tells (whole seconds)."""
    try:
        theirs = parsedate_to_datetime(response.headers["date"])
    except (KeyError, ValueError):
        return ""
    difference_s = (datetime.now(UTC) - theirs).total_seconds()
    return f", and this node's clock is {difference_s:+.0f} s from the coordinator's"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was raised from, and so on."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__
