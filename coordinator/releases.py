"""Accept what the members of a run release: only what enough of them signed, and only if they agree.

The coordinator cannot check a figure, because it sees no sum. It can check that u - c members of the cohort
put their names under the very same bytes (rule D2), that none signed others, and it logs those bytes and no
others.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from policies.errors import UserError
from policies.release import ReleasedTable, SignedRelease, verify_release


class ReleaseNotAccepted(UserError):
    """The members' released tables do not add up to one that may be published.

    Tree::

        ReleaseNotAccepted
          ReleaseForeign          a table of another agreement, key epoch, run or cohort, or from a stranger
          ReleaseDisagrees        two members signed different tables
          ReleaseTooFewSigners    fewer than u - c members signed

    A signature that does not verify is `policies.release.ReleaseRefused`.
    """


class ReleaseForeign(ReleaseNotAccepted):
    """A table of another agreement, key epoch, run or cohort, or from somebody outside the cohort."""


class ReleaseDisagrees(ReleaseNotAccepted):
    """Members signed different tables."""


class ReleaseTooFewSigners(ReleaseNotAccepted):
    """Fewer members signed than the agreement's bounds ask for."""


@dataclass(frozen=True)
class Released:
    """A table that may be published, with the signatures under it."""

    table: ReleasedTable
    signatures: Mapping[str, bytes]

    def signatures_base64(self) -> dict[str, str]:
        """Member id to signature, as the card and the registry show it."""
        return {member: base64.b64encode(s).decode() for member, s in sorted(self.signatures.items())}

    def to_json(self) -> bytes:
        """The table and its signatures as one JSON document, for the registry and the ledger."""
        document = {"table": json.loads(self.table.canonical()), "signatures": self.signatures_base64()}
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def accept_release(
    replies: Mapping[str, SignedRelease],
    *,
    agreement_hash: bytes,
    epoch_id: bytes,
    run_id: str,
    cohort: Collection[str],
    identity_keys: Mapping[str, bytes],
    min_signers: int,
) -> Released:
    """Accept one table from the members' signed answers.

    Args:
        replies: Member id to what it sent.
        agreement_hash: SHA-256 of the agreement in force, 32 bytes.
        epoch_id: The run's key epoch, 32 bytes.
        run_id: The run.
        cohort: The members of the key epoch.
        identity_keys: Member id to Ed25519 public key, from the agreement.
        min_signers: u - c of the agreement's bounds.

    Raises:
        ReleaseForeign: A table of another agreement, epoch, run or cohort, or an answer from a stranger.
        ReleaseRefused: A signature does not verify, or a table is malformed.
        ReleaseDisagrees: Members signed different tables; names them.
        ReleaseTooFewSigners: Fewer than `min_signers` answers.
    """
    strangers = sorted(set(replies) - (set(cohort) & set(identity_keys)))
    if strangers:
        raise ReleaseForeign(
            f"Expected released tables from the cohort ({', '.join(sorted(cohort))}), found one from "
            f"{', '.join(strangers)}; nothing is published."
        )
    if len(replies) < max(min_signers, 1):
        raise ReleaseTooFewSigners(
            f"Expected a released table signed by at least {max(min_signers, 1)} members, found "
            f"{len(replies)} ({', '.join(sorted(replies)) or 'nobody'}); nothing is published until more "
            "members answer."
        )
    tables: dict[bytes, ReleasedTable] = {}
    signers: defaultdict[bytes, list[str]] = defaultdict(list)
    for member, signed in sorted(replies.items()):
        table = verify_release(signed, member, identity_keys[member])
        _check_belongs(table, member, agreement_hash, epoch_id, run_id, cohort)
        tables[signed.released] = table
        signers[signed.released].append(member)
    if len(tables) > 1:
        raise ReleaseDisagrees(_disagreement(tables, signers))
    (released,) = tables
    return Released(tables[released], {member: replies[member].signature for member in signers[released]})


def _check_belongs(
    table: ReleasedTable,
    member: str,
    agreement_hash: bytes,
    epoch_id: bytes,
    run_id: str,
    cohort: Collection[str],
) -> None:
    for what, expected, found in (
        ("agreement", agreement_hash.hex(), table.agreement_hash),
        ("key epoch", epoch_id.hex(), table.epoch_id),
        ("run", run_id, table.run_id),
        ("cohort", ", ".join(sorted(cohort)), ", ".join(table.cohort)),
    ):
        if expected != found:
            raise ReleaseForeign(
                f"Expected a released table of {what} {expected}, {member} signed one of {what} {found}; "
                "nothing is published."
            )


def _disagreement(tables: Mapping[bytes, ReleasedTable], signers: Mapping[bytes, list[str]]) -> str:
    """Name the members outside the largest group, and the fields in which their tables differ from it."""
    order = sorted(signers, key=lambda released: (-len(signers[released]), signers[released]))
    common = tables[order[0]].model_dump(mode="json")
    parts = []
    for released in order[1:]:
        other = tables[released].model_dump(mode="json")
        fields = ", ".join(sorted(name for name in common if common[name] != other[name]))
        parts.append(f"{' and '.join(signers[released])} (in: {fields})")
    return (
        f"Expected one released table, found {len(order)}: {' and '.join(signers[order[0]])} signed one, "
        f"different ones came from {'; '.join(parts)}; nothing is published, compare these members' versions "
        "and logs."
    )
