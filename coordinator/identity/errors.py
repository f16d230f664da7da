"""What is refused to a caller of the API, before anything else is looked at."""

from __future__ import annotations

from policies.errors import UserError


class AuthenticationRefused(UserError):
    """The caller is not known: no token, or one that does not hold.

    Attributes:
        www_authenticate: The challenge (RFC 6750 section 3).
    """

    def __init__(self, sentence: str, *, error: str | None = None) -> None:
        super().__init__(sentence)
        self.www_authenticate = 'Bearer realm="tallystick"' + (f', error="{error}"' if error else "")


class ScopeMissing(UserError):
    """The caller is known and may not do this."""


class RateLimited(UserError):
    """The caller asks more often than it may.

    Attributes:
        retry_after_s: When it may ask again.
    """

    def __init__(self, sentence: str, retry_after_s: int) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class ClientRefused(UserError):
    """A token was asked for with a name or a secret that do not belong together; it is not said which."""
