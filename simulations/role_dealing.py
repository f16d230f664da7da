"""Deal the entities of several roles to several members a role, and make the agreement's hold-out a given split.

An entity has one bank, one payment institution, one logistics firm, and not every role knows it: each role's rows go to
one of its members, and a share of them to nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from models.features import BoolArray
from models.holdout import holdout_mask
from protos.private_set_intersection.identifiers import IdentifierType, normalise
from simulations.datasets.role_data_set import RoleDataSet
from simulations.dealing import DealImpossible

OVERLAP: Final = 0.8
"""Share of the entities that each role beside the first label's knows."""
_MOST_TRIES: Final = 10_000


@dataclass(frozen=True, eq=False)
class DealtRoles:
    """Who has which rows.

    Attributes:
        data: What was dealt.
        role_of: Role by member.
        rows: Rows by member.
    """

    data: RoleDataSet
    role_of: Mapping[str, str]
    rows: Mapping[str, pd.DataFrame] = field(repr=False)

    @property
    def members(self) -> tuple[str, ...]:
        """Members, sorted."""
        return tuple(sorted(self.rows))

    def members_of(self, role: str) -> tuple[str, ...]:
        """Members of a role, sorted."""
        return tuple(member for member in self.members if self.role_of[member] == role)


def members_by_role(roles: Iterable[str], members_per_role: int) -> dict[str, tuple[str, ...]]:
    """Member ids by role: `bank-a`, `bank-b` ..., `payment-a` ...

    Args:
        roles: Their roles.
        members_per_role: At most 26.
    """
    return {role: tuple(f"{role}-{chr(ord('a') + place)}" for place in range(members_per_role)) for role in roles}


def deal_roles(
    data: RoleDataSet, members: Mapping[str, Sequence[str]], *, seed: int, overlap: float = OVERLAP
) -> DealtRoles:
    """Deal every role's rows to its members.

    Args:
        data: The rows.
        members: Members by role; every role of the data has some.
        seed: Same seed, same deal.
        overlap: Share of its rows that a role knows, in (0, 1]; the role that knows the first task's label knows all
            of its rows. 1 leaves the overlap as the data have it.

    Returns:
        Each entity at one member of a role that knows it, and at none of the others.

    Raises:
        DealImpossible: A role has no member, a member would get no row, or the overlap is out of its range.
    """
    if members.keys() != data.frames.keys() or not all(members.values()) or not 0 < overlap <= 1:
        raise DealImpossible(
            f"Expected at least one member of each of {', '.join(data.roles)} and an overlap above 0 and up to 1, found"
            f" {', '.join(members)} and {overlap:g}; correct the deal."
        )
    rng = np.random.default_rng(seed)  # a deal must repeat for a seed; nothing in it is secret
    rows: dict[str, pd.DataFrame] = {}
    for role, frame in data.frames.items():
        owner = rng.integers(len(members[role]), size=len(frame))
        known = rng.random(len(frame)) < overlap
        if role == data.first_label.role:
            known[:] = True
        for place, member in enumerate(members[role]):
            rows[member] = frame[known & (owner == place)].reset_index(drop=True)
    poor = [member for member, frame in rows.items() if frame.empty]
    if poor:
        raise DealImpossible(f"Expected rows for every member, found none for {poor[0]}; deal fewer members.")
    role_of = {member: role for role, names in members.items() for member in names}
    return DealtRoles(data, role_of, rows)


def stratified_holdout(data: RoleDataSet, task: str, *, share: float, seed: int) -> frozenset[str]:
    """Entities that a stratified split holds out, as most published figures have it.

    Args:
        data: The rows.
        task: Whose label stratifies.
        share: Share held out.
        seed: Of scikit-learn's `train_test_split`, over the rows in their order.
    """
    label = data.labels[task]
    frame = data.frames[label.role]
    _, held = train_test_split(
        np.arange(len(frame)), test_size=share, random_state=seed, stratify=frame[label.column].to_numpy()
    )
    return frozenset(frame[data.id_column].iloc[held])


def with_holdout(
    data: RoleDataSet, held_out: Collection[str], *, key: bytes, percent: int, id_type: IdentifierType
) -> RoleDataSet:
    """The same rows under ids that the agreement's keyed hash holds out exactly where a given split does.

    A consortium cannot choose its hold-out: a hash of the id does. A benchmark that is to be compared with published
    figures chooses the ids instead: a counter is appended to each until the hash agrees.

    Args:
        data: The rows.
        held_out: Ids to hold out; all others are trained on.
        key: The agreement's hold-out key.
        percent: The agreement's share.
        id_type: The agreement's; ids come out as it normalises them, so that every node hashes the same text.
    """
    ids = list(dict.fromkeys(entity for frame in data.frames.values() for entity in frame[data.id_column]))
    wanted = np.fromiter((entity in held_out for entity in ids), dtype=np.bool_, count=len(ids))
    found = ids_of_split(ids, wanted, key=key, percent=percent, id_type=id_type)
    return data.renamed(dict(zip(ids, found, strict=True)))


def ids_of_split(
    ids: Sequence[str], held_out: BoolArray, *, key: bytes, percent: int, id_type: IdentifierType
) -> list[str]:
    """Ids that `models.holdout.holdout_mask` holds out exactly where it is wanted.

    Args:
        ids: As they are; all different once normalised.
        held_out: Shape (len(ids),).
        key: As `with_holdout`.
        percent: As `with_holdout`.
        id_type: As `with_holdout`.

    Raises:
        DealImpossible: An id is malformed for its type, two become one, or no counter helps.
    """
    stems = [_normal(entity, id_type) for entity in ids]
    found = list(stems)
    open_rows = np.flatnonzero(holdout_mask(found, key, percent, id_type) != held_out)
    for count in range(_MOST_TRIES):
        if open_rows.size == 0:
            break
        for row in open_rows.tolist():
            found[row] = _normal(f"{stems[row]}x{count}", id_type)
        tried = holdout_mask([found[row] for row in open_rows.tolist()], key, percent, id_type)
        open_rows = open_rows[tried != held_out[open_rows]]
    if open_rows.size or len(set(found)) != len(found):
        raise DealImpossible(
            "Expected ids that stay different once normalised and with a counter, found two that do not; rename them."
        )
    return found


def _normal(entity: str, id_type: IdentifierType) -> str:
    normal = normalise(id_type, entity)
    if normal is None:
        raise DealImpossible(f"Expected ids of type {id_type!r}, found one that is none; choose another type.")
    return normal
