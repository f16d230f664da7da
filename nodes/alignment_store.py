"""What a node keeps of its intersections with other members, so that it goes on after kill -9.

The scalar of a session and the digests that matching needs go when the session ends, the orders when the run does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodes.store import NodeStore
from protos.private_set_intersection.channel import Pair
from protos.private_set_intersection.session import Kept, Side

_SESSION = "run_id = ? and label_holder = ? and feature_holder = ?"


@dataclass(frozen=True)
class StoredSession:
    """One session as last committed.

    Attributes:
        side: This member's state.
        exchange: Number of the exchange answered last.
    """

    side: Side
    exchange: int


class AlignmentStore:
    """The alignment tables of a node's store.

    Args:
        store: The node's durable state.
        run_id: The run.
    """

    def __init__(self, store: NodeStore, run_id: str) -> None:
        self._store = store
        self._run_id = run_id

    def session(self, pair: Pair) -> StoredSession | None:
        """The session with a peer, or None."""
        with self._store.reading() as db:
            row = db.execute(f"select side, exchange from alignments where {_SESSION}", self._key(pair)).fetchone()  # noqa: S608
        return None if row is None else StoredSession(Side.from_bytes(row[0]), row[1])

    def commit(
        self,
        pair: Pair,
        side: Side,
        exchange: int,
        reply: bytes,
        kept: Sequence[Kept] = (),
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        """Commit an exchange before its reply leaves.

        Args:
            pair: Whose session.
            side: The new state.
            exchange: Its number.
            reply: What is about to be sent; this one and the one before are kept for a peer that is one behind.
            kept: Digests that came with it.
            rows: The order that the session gave; digests are no longer needed then.
        """
        key = self._key(pair)
        with self._store.transaction() as db:
            db.execute(
                "insert into alignments (run_id, label_holder, feature_holder, side, exchange) values (?, ?, ?, ?, ?) "
                "on conflict do update set side = excluded.side, exchange = excluded.exchange",
                (*key, side.to_bytes(), exchange),
            )
            parts = [("reply", exchange, reply), *((part.kind, part.number, part.digests) for part in kept)]
            db.executemany("insert into alignment_parts values (?, ?, ?, ?, ?, ?)", [(*key, *part) for part in parts])
            db.execute(
                f"delete from alignment_parts where {_SESSION} and kind = 'reply' and number < ?",  # noqa: S608
                (*key, exchange - 1),
            )
            if rows is not None:
                db.execute(f"update alignments set rows = ? where {_SESSION}", (rows.astype("<i8").tobytes(), *key))  # noqa: S608
                db.execute(f"delete from alignment_parts where {_SESSION} and kind <> 'reply'", key)  # noqa: S608

    def digests(self, pair: Pair, kind: str) -> bytes:
        """All kept digests of a kind, in order."""
        with self._store.reading() as db:
            parts = db.execute(
                f"select data from alignment_parts where {_SESSION} and kind = ? order by number",  # noqa: S608
                (*self._key(pair), kind),
            ).fetchall()
        return b"".join(part for (part,) in parts)

    def replies(self, pair: Pair) -> dict[int, bytes]:
        """The last two replies by exchange."""
        with self._store.reading() as db:
            rows = db.execute(
                f"select number, data from alignment_parts where {_SESSION} and kind = 'reply' order by number",  # noqa: S608
                self._key(pair),
            ).fetchall()
        return dict(rows)

    def aligned_rows(self, pair: Pair) -> NDArray[np.int64] | None:
        """The order that a finished session gave, or None before.

        Returns:
            At the label holder its own rows in the order of the run; at the feature holder, for each of those, its
            own row or -1. Rows count from 0 in the order of `EntityProvider`.
        """
        with self._store.reading() as db:
            row = db.execute(f"select rows from alignments where {_SESSION}", self._key(pair)).fetchone()  # noqa: S608
        return np.frombuffer(row[0], dtype="<i8").astype(np.int64) if row is not None and row[0] else None

    def any_side(self, label_holder: str) -> Side | None:
        """A session of this run in which a member holds the label: it fixed that member's order."""
        with self._store.reading() as db:
            row = db.execute(
                "select side from alignments where run_id = ? and label_holder = ? limit 1",
                (self._run_id, label_holder),
            ).fetchone()
        return None if row is None else Side.from_bytes(row[0])

    def _key(self, pair: Pair) -> tuple[str, str, str]:
        return self._run_id, pair.label_holder, pair.feature_holder
