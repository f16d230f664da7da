"""The token endpoint: client credentials, their errors, rotation, and what a guesser gets."""

import base64

import jwt
import pytest

from coordinator.identity.rate_limits import FAILURES_PER_MINUTE
from coordinator.identity.signing_keys import PUBLISHED_BEFORE_S, TOKEN_S, SigningKeys

GRANT = {"grant_type": "client_credentials"}


def ask(desk, data=None, *, auth=None, **arguments):
    return desk.request("POST", "/oauth/token", data=GRANT if data is None else data, auth=auth, **arguments)


def secret(desk, name="platform-app"):
    return desk.platform.secrets[name]


def test_token_by_basic_and_by_form_is_verified_with_the_published_keys(desk):
    named = GRANT | {"client_id": "platform-app", "client_secret": secret(desk)}
    keys = jwt.PyJWKSet.from_dict(desk.request("GET", "/.well-known/jwks.json").json())
    for answer in (ask(desk, auth=("platform-app", secret(desk))), ask(desk, named)):
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        found = answer.json()
        assert found["token_type"] == "Bearer"
        assert found["expires_in"] == TOKEN_S
        kid = jwt.get_unverified_header(found["access_token"])["kid"]
        issuer = "http://127.0.0.1:8080"
        claims = jwt.decode(found["access_token"], keys[kid].key, ["EdDSA"], audience=issuer, issuer=issuer)
        assert claims["client_id"] == "platform-app"


def test_metadata_names_the_endpoints(desk):
    found = desk.request("GET", "/.well-known/oauth-authorization-server").json()
    assert found["token_endpoint"] == "http://127.0.0.1:8080/oauth/token"
    assert found["grant_types_supported"] == ["client_credentials"]


@pytest.mark.parametrize(
    ("data", "status", "error"),
    [
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({}, 400, "invalid_request"),
        (GRANT | {"scope": "decisions:read admin"}, 400, "invalid_scope"),
        (GRANT | {"scope": " "}, 400, "invalid_scope"),
        (GRANT | {"scope": "reviews:write"}, 400, "invalid_scope"),
        (GRANT | {"client_secret": "x"}, 400, "invalid_request"),
        (GRANT | {"colour": "red"}, 400, "invalid_request"),
    ],
)
def test_errors_are_those_of_the_standard(desk, data, status, error):
    answer = ask(desk, data, auth=("platform-app", secret(desk)))
    assert (answer.status_code, answer.json()["error"]) == (status, error)


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Basic !!"}, {"Authorization": "Basic " + base64.b64encode(b"nocolon").decode()}, {}],
)
def test_credentials_that_are_none_are_refused(desk, headers):
    assert ask(desk, headers=headers).json()["error"] == "invalid_request"


def test_wrong_name_and_wrong_secret_look_alike(desk):
    wrong = [
        ask(desk, auth=("platform-app", secret(desk, "other-app"))),
        ask(desk, auth=("nobody-here", secret(desk))),
        ask(desk, auth=("platform-app", "short")),
        ask(desk, auth=("nobody", secret(desk))),
    ]
    assert {one.status_code for one in wrong} == {401}
    assert len({one.content for one in wrong}) == 1
    assert wrong[0].headers["www-authenticate"].startswith("Basic")


def test_guesser_is_slowed_down_by_name_and_others_are_not(desk):
    codes = [ask(desk, auth=("platform-app", f"guess-{n}")).status_code for n in range(FAILURES_PER_MINUTE + 2)]
    assert codes == [401] * FAILURES_PER_MINUTE + [429] * 2
    assert ask(desk, auth=("platform-app", secret(desk))).status_code == 429
    assert ask(desk, auth=("other-app", secret(desk, "other-app"))).status_code == 200


def test_secret_is_rotated_without_an_outage(desk):
    clients, old = desk.process.authenticator._clients, secret(desk)
    new = clients.rotate("platform-app", overlap_s=3600).text()
    assert {ask(desk, auth=("platform-app", one)).status_code for one in (old, new)} == {200}
    newest = clients.rotate("platform-app", overlap_s=0).text()
    assert ask(desk, auth=("platform-app", old)).status_code == 401
    assert ask(desk, auth=("platform-app", new)).status_code == 401
    assert ask(desk, auth=("platform-app", newest)).status_code == 200


def test_signing_key_is_published_before_it_signs_and_the_old_one_until_its_tokens_end(tmp_path):
    now = [1_800_000_000.0]
    keys = SigningKeys(tmp_path / "keys", now=lambda: now[0], monotonic=lambda: now[0])
    first = keys.add()
    assert keys.signing().kid == first
    now[0] += 10_000
    second = keys.add()
    assert [one.kid for one in keys.published()] == [second, first]
    assert keys.signing().kid == first
    now[0] += PUBLISHED_BEFORE_S
    assert keys.signing().kid == second
    now[0] += TOKEN_S - 1
    assert keys.by_kid(first) is not None
    now[0] += 1
    assert [one.kid for one in keys.published()] == [second]


def test_secrets_are_kept_as_hashes_in_a_private_file(desk):
    file = desk.platform.settings.parent / "clients" / "clients.json"
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert not any(value in text for value in desk.platform.secrets.values())
