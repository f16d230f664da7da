"""A bearer token to who that is: checked once, remembered until it ends, held against the clients file each time."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import jwt

from coordinator.identity.clients import ClientFolder
from coordinator.identity.errors import AuthenticationRefused, ScopeMissing
from coordinator.identity.issuer import ALGORITHM, TYPE
from coordinator.identity.principal import SCOPES_OF, Principal
from coordinator.identity.rate_limits import RateLimits
from coordinator.identity.signing_keys import SigningKeys

MAX_TOKEN: Final = 4096
MAX_REMEMBERED: Final = 4096
LEEWAY_S: Final = 5
_CLAIMS: Final = ("iss", "aud", "sub", "client_id", "scope", "iat", "nbf", "exp", "jti")


@dataclass(frozen=True)
class _Checked:
    """A token whose signature and claims were checked."""

    client_id: str
    scopes: frozenset[str]
    kid: str
    ends_s: float


class Authenticator:
    """Knows callers by their tokens. Used from one event loop.

    Args:
        issuer: The API's own URL: issuer and audience of its tokens.
        clients: Who may call now.
        keys: Verify tokens.
        limits: How often each may.
        now: Unix seconds.
    """

    def __init__(
        self,
        issuer: str,
        clients: ClientFolder,
        keys: SigningKeys,
        limits: RateLimits,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._issuer = issuer
        self._clients = clients
        self._keys = keys
        self._limits = limits
        self._now = now
        self._checked: OrderedDict[bytes, _Checked] = OrderedDict()

    def authenticate(self, authorization: str | None) -> Principal:
        """Who sent this header.

        A client that was disabled, or has another role now, is seen as such whatever its token says.

        Raises:
            AuthenticationRefused: No token, or one that does not hold.
        """
        if authorization is None:
            raise AuthenticationRefused("Expected a bearer token, found none; ask POST /oauth/token for one.")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN or not token.isascii():
            raise AuthenticationRefused(
                "Expected Authorization: Bearer and a token, found something else; correct the header.",
                error="invalid_request",
            )
        name = hashlib.sha256(token.encode()).digest()
        checked = self._checked.get(name)
        now = self._now()
        if checked is None:
            checked = self._check(token, now)
            self._checked[name] = checked
            if len(self._checked) > MAX_REMEMBERED:
                self._checked.popitem(last=False)
        elif now >= checked.ends_s or self._keys.by_kid(checked.kid) is None:
            del self._checked[name]
            raise _refused()
        client = self._clients.current().get(checked.client_id)
        if client is None or client.disabled:
            raise _refused()
        return Principal(client.id, client.tenant, client.role, checked.scopes & SCOPES_OF[client.role])

    def authorise(self, principal: Principal, scope: str) -> None:
        """Return if the caller may do this.

        Raises:
            ScopeMissing: It may not.
        """
        if scope not in principal.scopes:
            raise ScopeMissing(
                f"Expected a token with the scope {scope}, found one without; the role {principal.role} "
                + ("may ask for it." if scope in SCOPES_OF[principal.role] else "may not have it.")
            )

    def take(self, principal: Principal) -> None:
        """Count one request of the caller.

        Raises:
            RateLimited: It is one too many.
        """
        client = self._clients.current().get(principal.client_id)
        if client is None:
            raise _refused()
        self._limits.take(client.id, client.requests_per_minute)

    def _check(self, token: str, now: float) -> _Checked:
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.by_kid(header.get("kid"))
            if key is None or header.get("alg") != ALGORITHM or header.get("typ") != TYPE:
                raise _refused()
            claims: dict[str, Any] = jwt.decode(
                token,
                key.private.public_key(),
                algorithms=[ALGORITHM],  # never the token's own word
                issuer=self._issuer,
                audience=self._issuer,
                options={"require": list(_CLAIMS), "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except jwt.PyJWTError:
            raise _refused() from None
        times = [claims["nbf"], claims["exp"]]
        texts = [claims["client_id"], claims["sub"], claims["scope"]]
        if not all(type(one) is int for one in times) or not all(isinstance(one, str) for one in texts):
            raise _refused()
        # By this clock alone, so that tests and servers mean the same now.
        if now < claims["nbf"] - LEEWAY_S or now >= claims["exp"] or claims["sub"] != claims["client_id"]:
            raise _refused()
        return _Checked(claims["client_id"], frozenset(claims["scope"].split()), key.kid, claims["exp"])


def _refused() -> AuthenticationRefused:
    """One sentence for every token that does not hold: what is wrong with it is nobody's business but its maker's."""
    return AuthenticationRefused(
        "Expected a token of this API that holds now, found another; ask POST /oauth/token for a new one.",
        error="invalid_token",
    )
