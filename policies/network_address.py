"""Addresses in settings files: host and port, and URLs that must not hold a password."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import parse_qsl, urlsplit

_HOST_NAME = re.compile(r"^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*$")
_PASSWORD_KEYS = frozenset({"password", "passwd", "pwd", "sslpassword"})


def is_host(text: str) -> bool:
    """Whether this is an IP address or a host name (RFC 1123)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return bool(_HOST_NAME.match(text))
    return True


def split_address(text: str) -> tuple[str, int]:
    """`host:port` or `[ipv6]:port` as a host and a port.

    Raises:
        ValueError: Not of that form; the text says what was expected.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    valid = is_host(bare) and bracketed == (":" in bare)
    if not (valid and re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
        raise ValueError(
            "expected host:port such as coordinator.example:8443 (no scheme, no path), found something else; correct it"
        )
    return bare, int(port)


def url_holds_password(url: str) -> bool:
    """Whether a URL carries a password, before its host or among its parameters; True for what cannot be parsed."""
    try:
        parts = urlsplit(url)
        return parts.password is not None or any(
            key.lower() in _PASSWORD_KEYS for key, _ in parse_qsl(parts.query, keep_blank_values=True)
        )
    except ValueError:
        return True
