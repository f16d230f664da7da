"""The ledger as one file that anybody can check offline: JSON lines, each written in one way only.

```
{"format":"tallystick-ledger-export/1","log":KEY,"origin":ORIGIN,"witnesses":{MEMBER:KEY,...}}
{"body":{...},"entry":0,"leaf":HEX}            one line an entry, in order
{"checkpoint":NOTE}                            behind the entries that it is about
{"end":{"entries":N,"sha256":HEX}}             of every byte before this line
```

Between the co-signed checkpoints stand the operator's own, one every `CHECKPOINT_EVERY` entries: whoever rewrites
entries and their hashes alike is found within so many entries, not somewhere in a million.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import sqlalchemy as sa

from coordinator.database.schema import CheckpointRow
from coordinator.decisions.store import DecisionStore
from coordinator.ledger.checkpoints import Checkpointer, SignedCheckpoint, with_cosignatures
from coordinator.ledger.log import LedgerDamaged, Log
from policies.ledger_keys import LedgerKeys
from protos.ledger.merkle import Frontier, leaf_hash
from protos.ledger.notes import Note

FORMAT: Final = "tallystick-ledger-export/1"
CHECKPOINT_EVERY: Final = 64


def encode_line(value: Mapping[str, Any]) -> bytes:
    """One line: JSON in ASCII, keys sorted, no white space, a line break."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii") + b"\n"


def entry_line(entry: int, body: bytes, leaf: bytes) -> bytes:
    """The line of an entry; its body stands there byte for byte."""
    return b'{"body":' + body + f',"entry":{entry},"leaf":"{leaf.hex()}"}}\n'.encode("ascii")


def export_lines(store: DecisionStore, checkpointer: Checkpointer, keys: LedgerKeys) -> Iterator[bytes]:
    """The whole ledger, up to a checkpoint that is signed now.

    Args:
        store: Whose ledger.
        checkpointer: Signs the checkpoints that no witness has seen.
        keys: The ledger's keys of the agreement.

    Yields:
        The file's lines.

    Raises:
        LedgerDamaged: The stored entries are not those under a stored checkpoint.
    """
    newest = checkpointer.newest()
    digest = hashlib.sha256()
    with store.reading() as connection:
        kept = {
            size: with_cosignatures(connection, size, note)
            for size, note in connection.execute(sa.select(CheckpointRow.size, CheckpointRow.note))
        }
        kept.setdefault(newest.checkpoint.size, newest)
        for line in _content(Log(connection), checkpointer, keys, kept, newest.checkpoint.size):
            digest.update(line)
            yield line
    yield encode_line({"end": {"entries": newest.checkpoint.size, "sha256": digest.hexdigest()}})


def _content(
    log: Log, checkpointer: Checkpointer, keys: LedgerKeys, kept: Mapping[int, SignedCheckpoint], size: int
) -> Iterator[bytes]:
    yield encode_line(
        {
            "format": FORMAT,
            "log": keys.log.encode(),
            "origin": keys.origin,
            "witnesses": {member: key.encode() for member, key in keys.witnesses.items()},
        }
    )
    frontier = Frontier()
    if 0 in kept:
        yield _checkpoint_line(kept[0].note, keys)
    for stored in log.entries(0, size):
        leaf = leaf_hash(stored.body)
        if stored.entry != frontier.size or leaf != stored.leaf_hash:
            break
        yield entry_line(stored.entry, stored.body, leaf)
        frontier, _ = frontier.append(leaf)
        if frontier.size in kept:
            if kept[frontier.size].checkpoint.root != frontier.root():
                break
            yield _checkpoint_line(kept[frontier.size].note, keys)
        elif frontier.size % CHECKPOINT_EVERY == 0:
            yield _checkpoint_line(checkpointer.sign_past(frontier.size, frontier.root()), keys)
    else:
        if frontier.size == size:
            return
    raise LedgerDamaged(
        f"The ledger: expected {size} entries as they were appended, found a change behind entry {frontier.size - 1};"
        " `tallystick ledger verify` on the database says more."
    )


def _checkpoint_line(note: Note, keys: LedgerKeys) -> bytes:
    """Without the lines of members that have left: the header's keys check everything that stands in the file."""
    return encode_line({"checkpoint": note.known(keys.all()).encode()})
