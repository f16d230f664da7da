"""A member's own identifiers as the tokens that requests and grants speak of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from policies.fingerprints import entity_token
from policies.token_key import TokenKey
from protos.private_set_intersection.identifiers import IdentifierType, normalise


@dataclass(frozen=True, eq=False)
class EntityTokens:
    """Tokens of identifiers of one type.

    Attributes:
        key: Shared by the members and the issuer of grants.
        id_type: How identifiers are written, of the agreement; alignment normalises them the same way.
    """

    key: TokenKey = field(repr=False)
    id_type: IdentifierType

    def of(self, ids: Iterable[object]) -> list[bytes | None]:
        """A token of 32 bytes for each identifier, in order; None where it cannot be normalised.

        Identifiers that are written differently and mean one entity have one token.
        """
        key, kind = self.key.raw, self.id_type
        normal = (normalise(kind, identifier) for identifier in ids)
        return [None if text is None else entity_token(key, kind, text) for text in normal]
