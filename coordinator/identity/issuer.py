"""The embedded issuer: client credentials (RFC 6749 section 4.4) to an access token (RFC 9068), signed with Ed25519."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import jwt

from coordinator.identity.clients import ClientFolder
from coordinator.identity.errors import ClientRefused, ScopeMissing
from coordinator.identity.principal import SCOPES_OF
from coordinator.identity.rate_limits import RateLimits
from coordinator.identity.signing_keys import TOKEN_S, SigningKeys

ALGORITHM: Final = "EdDSA"
TYPE: Final = "at+jwt"


@dataclass(frozen=True)
class IssuedToken:
    """An access token.

    Attributes:
        text: What is sent as the bearer token.
        expires_in_s: How long it holds.
        scope: What it may do, words with spaces between.
    """

    text: str = field(repr=False)
    expires_in_s: int
    scope: str


class TokenIssuer:
    """Gives tokens to clients that prove themselves.

    Args:
        issuer: The API's own URL.
        clients: Who may ask.
        keys: Sign.
        limits: Counts failures.
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
        self.issuer = issuer
        self._clients = clients
        self._keys = keys
        self._limits = limits
        self._now = now

    def token(self, client_id: str, client_secret: str, scope: str | None = None) -> IssuedToken:
        """A token for a client.

        Args:
            client_id: Its name.
            client_secret: Its secret.
            scope: What it asks for, words with spaces between; all that its role may do by default.

        Raises:
            RateLimited: Wrong secrets were tried for this name too often.
            ClientRefused: Name and secret do not belong together, or the client is disabled.
            ScopeMissing: It asks for what its role may not do.
        """
        self._limits.require_few_failures(client_id)
        client = self._clients.is_secret_of(client_id, client_secret)
        if client is None:
            self._limits.failed(client_id)
            raise ClientRefused("Expected a client's name with its secret, found another pair; check both.")
        may = SCOPES_OF[client.role]
        wanted = may if scope is None else frozenset(scope.split())
        if not wanted or not wanted <= may:
            raise ScopeMissing(
                f"Expected scopes that the role {client.role} may have ({' '.join(sorted(may))}), found others; ask for"
                " fewer."
            )
        now, granted = int(self._now()), " ".join(sorted(wanted))
        key = self._keys.signing()
        claims = {
            "iss": self.issuer,
            "aud": self.issuer,
            "sub": client.id,
            "client_id": client.id,
            "scope": granted,
            "iat": now,
            "nbf": now,
            "exp": now + TOKEN_S,
            "jti": secrets.token_hex(16),
        }
        text = jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": key.kid, "typ": TYPE})
        return IssuedToken(text, TOKEN_S, granted)

    def jwks(self) -> dict[str, Any]:
        """Keys that verify its tokens (RFC 7517)."""
        return {"keys": [key.jwk() for key in self._keys.published()]}

    def metadata(self) -> dict[str, Any]:
        """What a client library asks for first (RFC 8414)."""
        return {
            "issuer": self.issuer,
            "token_endpoint": f"{self.issuer}/oauth/token",
            "jwks_uri": f"{self.issuer}/.well-known/jwks.json",
            "grant_types_supported": ["client_credentials"],
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "scopes_supported": sorted({scope for scopes in SCOPES_OF.values() for scope in scopes}),
        }
