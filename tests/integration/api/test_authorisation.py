"""Every route, for every role, with every token that must not do: and whose records a caller sees."""

import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.api.endpoint import EVERYBODY
from coordinator.api.platform import ALWAYS, endpoints_of
from coordinator.identity.principal import SCOPES, SCOPES_OF
from models.artefact import load_model
from simulations.api_platform import CLIENTS, decision_request, made_up_model

ROUTES = [(one.method, one.path, one.scope) for one in endpoints_of(load_model(made_up_model()))]
GUARDED = [route for route in ROUTES if route[2] != EVERYBODY]
ISSUER = "http://127.0.0.1:8080"
BY_ROLE = {"platform": "platform-app", "bank": "bank-maker", "regulator": "authority", "operator": "operations"}


def call(desk, method, path, authorization):
    headers = {"Idempotency-Key": "matrix"} | ({} if authorization is None else {"Authorization": authorization})
    return desk.request(method, path.format(id="dec-0"), headers=headers)


def claims(**changes):
    now = int(time.time())
    return {
        "iss": ISSUER,
        "aud": ISSUER,
        "sub": "platform-app",
        "client_id": "platform-app",
        "scope": " ".join(SCOPES),
        "iat": now,
        "nbf": now,
        "exp": now + 600,
        "jti": "0" * 32,
    } | changes


def forged(desk, *, key=None, alg="EdDSA", typ="at+jwt", kid=None, **changes):
    """A token made with the API's own key, unless another is given."""
    signing = desk.process.authenticator._keys.signing()
    return jwt.encode(
        claims(**changes), key or signing.private, algorithm=alg, headers={"kid": kid or signing.kid, "typ": typ}
    )


def test_only_what_must_be_open_is_open():
    assert {path for _, path, scope in ROUTES if scope == EVERYBODY} == {
        "/oauth/token",
        "/.well-known/jwks.json",
        "/.well-known/oauth-authorization-server",
        "/healthz",
        "/readyz",
    }
    assert {scope for _, _, scope in GUARDED} == set(SCOPES)
    assert len({(one.method, one.path) for one in ALWAYS}) == len(ALWAYS)


@pytest.mark.parametrize(("method", "path", "scope"), GUARDED)
@pytest.mark.parametrize("role", sorted(BY_ROLE))
def test_role_reaches_what_its_scopes_say_and_nothing_else(standing, method, path, scope, role):
    answer = call(standing, method, path, f"Bearer {standing.token(BY_ROLE[role])}")
    if scope in SCOPES_OF[role]:
        assert answer.status_code not in {401, 403}, answer.text
    else:
        assert answer.status_code == 403
        assert answer.json()["type"].endswith(":forbidden")


@pytest.mark.parametrize(("method", "path", "scope"), GUARDED)
def test_token_without_the_scope_of_a_route_is_refused(standing, method, path, scope):
    others = sorted(SCOPES_OF["platform"] - {scope})
    token = standing.token("platform-app", " ".join(others))
    assert call(standing, method, path, f"Bearer {token}").status_code == 403


@pytest.mark.parametrize(("method", "path", "scope"), GUARDED)
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(None, id="no token"),
        pytest.param({"exp": 1_700_000_000}, id="expired"),
        pytest.param({"nbf": 2_000_000_000, "exp": 2_000_000_900}, id="not yet"),
        pytest.param({"aud": "https://elsewhere.example"}, id="wrong audience"),
        pytest.param({"iss": "https://elsewhere.example"}, id="wrong issuer"),
        pytest.param({"client_id": "nobody", "sub": "nobody"}, id="unknown client"),
        pytest.param({"typ": "JWT"}, id="an id token"),
        pytest.param({"kid": "1"}, id="unknown key"),
        pytest.param({"key": Ed25519PrivateKey.from_private_bytes(bytes(32))}, id="another key"),
    ],
)
def test_tokens_that_do_not_hold_are_refused_alike(standing, method, path, scope, changes):
    authorization = None if changes is None else f"Bearer {forged(standing, **changes)}"
    answer = call(standing, method, path, authorization)
    assert answer.status_code == 401, scope
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["type"].endswith(":unauthenticated")


def test_token_without_a_signature_or_with_the_public_key_as_a_secret_is_refused(standing):
    signing = standing.process.authenticator._keys.signing()
    public = signing.private.public_key().public_bytes_raw()
    for token in (
        jwt.encode(claims(), None, algorithm="none", headers={"kid": signing.kid, "typ": "at+jwt"}),
        jwt.encode(claims(), public, algorithm="HS256", headers={"kid": signing.kid, "typ": "at+jwt"}),
    ):
        assert call(standing, "GET", "/v1/decisions", f"Bearer {token}").status_code == 401


def test_token_with_a_changed_byte_is_refused(standing):
    token = forged(standing)
    assert call(standing, "GET", "/v1/decisions", f"Bearer {token}").status_code == 200
    head, body, signature = token.split(".")
    for changed in (f"{head}.{body[:-2]}AA.{signature}", f"{head}.{body}.{'A' + signature[1:]}", f"{head}.{body}."):
        assert call(standing, "GET", "/v1/decisions", f"Bearer {changed}").status_code == 401


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "Token x", "Bearer a b", "Bearer " + "x" * 9000]
)
def test_headers_that_are_no_bearer_token_are_refused(standing, header):
    assert call(standing, "GET", "/v1/decisions", header).status_code == 401


def test_client_that_is_disabled_is_refused_with_the_token_it_has(desk):
    assert desk.get("/v1/decisions").status_code == 200
    clients = desk.process.authenticator._clients
    clients.set_disabled("platform-app", disabled=True)
    assert desk.get("/v1/decisions").status_code == 401
    clients.set_disabled("platform-app", disabled=False)
    assert desk.get("/v1/decisions").status_code == 200


def test_another_tenants_records_are_as_if_they_were_not_there(desk):
    decision = desk.decide(1).json()
    settled = {
        "kind": "payment_settled",
        "id": "s-1",
        "occurred_at": "2026-11-25T08:00:00+00:00",
        "applicant": decision_request(2)["applicant"],
        "amount": "300000.00",
        "currency": "CNY",
        "industry": "home",
    }
    offer = desk.post("/v1/events", settled).json()["offer"]
    for path in (f"/v1/decisions/{decision['id']}", f"/v1/offers/{offer['id']}"):
        stranger, unknown = desk.get(path, by="other-app"), desk.get(path[:-1] + "x", by="other-app")
        assert stranger.status_code == unknown.status_code == 404
        assert stranger.json()["type"] == unknown.json()["type"]
        assert desk.get(path, by="authority").status_code == 200
    assert desk.get("/v1/decisions", by="other-app").json()["items"] == []
    assert len(desk.get("/v1/decisions", by="authority").json()["items"]) == 2
    pay = {"amount": "1.00", "currency": "CNY", "why": "Not mine."}
    assert desk.post(f"/v1/decisions/{decision['id']}/disbursements", pay, by="other-app").status_code == 404
    assert desk.post(f"/v1/offers/{offer['id']}/acceptance", by="other-app").status_code in {404, 409}
    signal = {"kind": "shipment", "id": "x", "occurred_at": "2026-11-25T08:00:00+00:00", "days_late": 60}
    stranger = desk.post("/v1/events", signal | {"decision_id": decision["id"]}, by="other-app")
    assert stranger.status_code == 404


def test_keys_of_two_tenants_have_nothing_to_do_with_each_other(desk):
    mine, theirs = desk.decide(1, key="same"), desk.decide(2, key="same", by="other-app")
    assert mine.status_code == theirs.status_code == 201
    assert mine.json()["id"] != theirs.json()["id"]


def test_every_role_has_a_client_here():
    assert {CLIENTS[name][1] for name in BY_ROLE.values()} == set(BY_ROLE)
