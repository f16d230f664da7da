"""Every way a sum within a role refuses.

RoleSumError
|-- RoleTooSmall      so few members that two of them would see each other's terms (A9)
|-- ValueTooLarge     a term that could make the sum wrap; it is refused with the member's own error
`-- PartRefused       a part of another session, number, sender, recipient or length
"""

from __future__ import annotations

from protos.sealed_sum.errors import SealedSumError


class RoleSumError(SealedSumError):
    """A sum within a role was refused; `str()` is one sentence that is safe to show and to log."""


class RoleTooSmall(RoleSumError):
    """A role that may not share a sum: each of so few members would subtract itself (A9)."""


class ValueTooLarge(RoleSumError):
    """A term outside the range in which the sum of all members cannot wrap."""


class PartRefused(RoleSumError):
    """A received part is not the one that is due."""
