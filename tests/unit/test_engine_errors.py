"""What a node says about a failed connection, and whether it tries again."""

import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from nodes.fleet_errors import ConnectionLost, FleetError, sort_error


def status_error(status, headers=None):
    request = httpx.Request("POST", "https://coordinator/v1/fleet/activate-node")
    response = httpx.Response(status, headers=headers, request=request)
    return httpx.HTTPStatusError("refused", request=request, response=response)


def test_clock_that_differs_is_named_with_the_difference():
    theirs = datetime.now(UTC) - timedelta(seconds=90)
    error = sort_error(status_error(401, {"date": format_datetime(theirs, usegmt=True)}), "coordinator:8443")
    assert isinstance(error, FleetError)
    assert "this node's clock is +9" in str(error)
    assert "synchronise them (NTP)" in str(error)


def test_refused_signature_without_a_date_is_still_one_sentence():
    assert "does not accept this node's signatures; the clocks" in str(sort_error(status_error(401), "coordinator:1"))


def test_key_that_is_not_admitted_is_not_tried_again():
    refused = status_error(403, {"tallystick-not-admitted": "1"})
    assert isinstance(sort_error(refused, "coordinator:1"), FleetError)


@pytest.mark.parametrize(
    "error", [status_error(503), status_error(412), status_error(403), httpx.ConnectError("refused")]
)
def test_failure_that_may_pass_is_tried_again(error):
    assert isinstance(sort_error(error, "coordinator:1"), ConnectionLost)


def test_alert_of_the_servers_tls_layer_means_that_our_certificate_is_refused():
    error = httpx.ReadError("read failed")
    alert = ssl.SSLError(1, "[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca")
    alert.reason = "TLSV1_ALERT_UNKNOWN_CA"
    error.__cause__ = alert
    assert "refused this node's certificate" in str(sort_error(error, "coordinator:1"))
