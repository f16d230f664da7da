"""What a node knows of each entity, computed before anybody asks: a look-up then costs the same for everyone (C5)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from models.score_slots import ScoreSlots, Slots
from policies.closed_model import shown_path
from policies.errors import SettingsRefused
from protos.masked_sum.masking import Vector
from protos.masked_sum.member import signed_values
from protos.masked_sum.request import TOKEN_BYTES, split_tokens

_ANY_NON_ZERO = (1 << 64) - 1


@dataclass(frozen=True, eq=False)
class EntityTable:
    """Slots of every entity of one (task, model version).

    The tower is evaluated over all rows when the model version is taken up, and once over a row of zeros for every
    entity that this node does not know: nothing is evaluated at request time, so that nothing takes longer for one.

    Attributes:
        layout: What the slots mean.
        rows: Token -> row.
        slots: int64 of shape (n_rows + 1, layout.width); the last row is that of unknown entities, all zero.
    """

    layout: ScoreSlots
    rows: Mapping[bytes, int] = field(repr=False)
    slots: Slots = field(repr=False)

    @classmethod
    def of(cls, layout: ScoreSlots, tokens: Sequence[bytes], slots: Slots) -> EntityTable:
        """A table of these entities.

        Args:
            layout: What the slots mean.
            tokens: 32 bytes each, all different.
            slots: Shape (len(tokens), layout.width); evidence slots are 0 or 1.
        """
        if slots.shape != (len(tokens), layout.width) or any(len(token) != TOKEN_BYTES for token in tokens):
            raise ValueError(f"expected one row of {layout.width} slots and a 32-byte token for each entity")
        rows = {token: row for row, token in enumerate(tokens)}
        if len(rows) != len(tokens):
            raise ValueError("expected every entity once, found one repeated")
        return cls(layout, rows, np.vstack([slots, np.zeros((1, layout.width), dtype=np.int64)]))

    def save(self, path: Path) -> None:
        """Write the table; it is this member's data and stays on its machine."""
        tokens = np.frombuffer(b"".join(self.rows), dtype=np.uint8).reshape(-1, TOKEN_BYTES)
        np.savez(
            path,
            tokens=tokens,
            slots=self.slots[:-1],
            reason_codes=np.array(self.layout.reason_codes, dtype=np.str_),
            evidence=np.array(self.layout.evidence, dtype=np.str_),
            scores=np.array(self.layout.scores),
        )

    @classmethod
    def load(cls, path: Path) -> EntityTable:
        """Read what `save` wrote; nothing in it is executed."""
        with np.load(path, allow_pickle=False) as stored:
            layout = ScoreSlots(
                tuple(map(str, stored["reason_codes"])), tuple(map(str, stored["evidence"])), bool(stored["scores"])
            )
            joined = stored["tokens"].tobytes()
            return cls.of(layout, split_tokens(joined), stored["slots"].astype(np.int64))

    def vector(
        self, tokens: Sequence[bytes], *, answers: bool | Sequence[bool], rng: Callable[[int], bytes] = os.urandom
    ) -> Vector:
        """This node's vector for a request, modulo 2^64, shape (len(tokens) * layout.width,).

        Args:
            tokens: Entities, in the request's order.
            answers: Whether the grant asks this node, about all entities or one by one; zeros where it does not.
            rng: Cryptographic randomness for evidence.
        """
        unknown = len(self.slots) - 1
        rows = self.rows
        places = [rows.get(token, unknown) for token in tokens]
        found = self.slots.take(places, axis=0)  # a copy
        if answers is not True:
            found *= np.reshape(answers, (-1, 1))
        vector = signed_values(found.reshape(-1))
        if self.layout.evidence:
            grid = vector.reshape(found.shape)[:, self.layout.evidence_at]
            # Drawn for every slot, used where there is evidence: the same work for everybody (C7).
            drawn = np.frombuffer(rng(8 * grid.size), dtype="<u8").reshape(grid.shape)
            non_zero = np.where(drawn == 0, np.uint64(_ANY_NON_ZERO), drawn)
            grid *= non_zero
        return vector


def load_tables(folder: Path) -> dict[tuple[str, str], EntityTable]:
    """(task, model version) -> table, from the files `<task>.<model version>.npz` of a folder.

    Raises:
        SettingsRefused: There is none, or one is no table.
    """
    tables = {}
    for path in sorted(folder.glob("*.*.npz")):
        task, version = path.name.removesuffix(".npz").split(".", 1)
        try:
            tables[task, version] = EntityTable.load(path)
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise SettingsRefused(
                f"{shown_path(path)}: expected a table of partial scores, found something else; make it again."
            ) from error
    if not tables:
        raise SettingsRefused(
            f"{shown_path(folder)}: expected a table `<task>.<model version>.npz` to answer scores from, found none; "
            "put one there, or take the scoring table out of node.toml."
        )
    return tables
