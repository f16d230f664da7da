"""Check an exported ledger offline, line by line, and name the first that is not what was exported.

1. Every line is JSON in the one encoding; nothing stands in the file that is not checked.
2. Entry n is number n, of a known kind, and its leaf hash is its own.
3. Every checkpoint has the root of the entries before it, the operator's signature, and cosignatures that verify.
4. The last entry is under a checkpoint; the last line counts and hashes all before it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from coordinator.ledger.entries import parse_entry
from coordinator.ledger.export import FORMAT, encode_line, entry_line
from policies.errors import UserError
from policies.ledger_keys import LedgerKeys
from protos.ledger.checkpoints import open_checkpoint, verify_cosignature
from protos.ledger.errors import LedgerError, SignatureInvalid
from protos.ledger.merkle import Frontier, leaf_hash
from protos.ledger.notes import COSIGNATURE_V1, ED25519, Note, NoteKey, parse_note

MAX_LINE_BYTES: Final = 1 << 21


class ExportRefused(UserError):
    """An export is not what was exported.

    Attributes:
        line: Where, from 1.
        entry: Which ledger entry it is about, where it is about one.
    """

    def __init__(self, line: int, entry: int | None, what: str) -> None:
        self.line, self.entry = line, entry
        place = f"line {line}" if entry is None else f"line {line}, entry {entry}"
        super().__init__(f"The exported ledger, {place}: {what}")


@dataclass(frozen=True)
class ExportReport:
    """What an export proves.

    Attributes:
        keys: By which it was checked.
        trusted: Whether they are the agreement's, and not only the file's own.
        size: Entries.
        root: Of all of them.
        kinds: How many of each kind.
        cosigned_size: Entries under the newest co-signed checkpoint; 0 where there is none.
        witnesses: Members that co-signed it, and when (Unix seconds).
    """

    keys: LedgerKeys
    trusted: bool
    size: int
    root: bytes
    kinds: Mapping[str, int]
    cosigned_size: int
    witnesses: Mapping[str, int]


def verify_export(lines: Iterable[bytes], trusted: LedgerKeys | None = None) -> ExportReport:
    """Check an export.

    Args:
        lines: The file's lines with their line breaks.
        trusted: The ledger's keys of an agreement that the reader holds; without it the file's own are used, and
            the file then shows only that it is consistent in itself.

    Raises:
        ExportRefused: The first line that is wrong.
    """
    check = _Check(trusted)
    for line in lines:
        check.take(line)
    return check.report()


@dataclass
class _Check:
    """The state between two lines."""

    trusted: LedgerKeys | None
    line: int = 0
    keys: LedgerKeys | None = None
    frontier: Frontier = field(default_factory=Frontier)
    covered: int = 0
    """Entries under the last checkpoint."""
    signed: bool = False
    kinds: Counter[str] = field(default_factory=Counter)
    cosigned_size: int = 0
    witnesses: Mapping[str, int] = field(default_factory=dict)
    digest: Any = field(default_factory=hashlib.sha256)
    ended: bool = False

    def take(self, line: bytes) -> None:
        self.line += 1
        if self.ended:
            self._refuse(None, "expected nothing behind the end, found a line; it was added.")
        if len(line) > MAX_LINE_BYTES or not line.endswith(b"\n"):
            self._refuse(self._next_entry(line), "expected a whole line, found a part of one; the file was cut.")
        try:
            value = json.loads(line)
            canonical = isinstance(value, dict) and encode_line(value) == line
        except (ValueError, RecursionError):
            self._refuse(self._next_entry(line), "expected JSON, found something else; the line was altered.")
        if not canonical:
            self._refuse(self._next_entry(line), "expected JSON in its one encoding; the line was altered.")
        match sorted(value):
            case ["format", "log", "origin", "witnesses"] if self.keys is None:
                self.keys = self._header(value)
            case ["body", "entry", "leaf"] if self.keys is not None:
                self._entry(value, line)
            case ["checkpoint"] if self.keys is not None:
                self._checkpoint(value["checkpoint"], self.keys)
            case ["end"] if self.keys is not None:
                self._end(line)
            case _:
                self._refuse(self._next_entry(line), "expected a line of an export; it was altered or moved.")
        self.digest.update(line)

    def report(self) -> ExportReport:
        self.line += 1
        if self.keys is None:
            self._refuse(None, "expected an exported ledger, found an empty file.")
        if not self.ended:
            self._refuse(self.frontier.size, "expected the end, found the end of the file; the file was cut.")
        return ExportReport(
            self.keys,
            self.trusted is not None,
            self.frontier.size,
            self.frontier.root(),
            dict(self.kinds),
            self.cosigned_size,
            self.witnesses,
        )

    def _header(self, value: dict[str, Any]) -> LedgerKeys:
        if value["format"] != FORMAT or not isinstance(value["witnesses"], dict):
            self._refuse(None, f"expected format {FORMAT}, found another; the file is no export of this release.")
        try:
            log = NoteKey.parse(str(value["log"]))
            witnesses = {member: NoteKey.parse(str(key)) for member, key in value["witnesses"].items()}
        except LedgerError as problem:
            self._refuse(None, str(problem))
        named = all(key.name == f"{log.name}/{member}" for member, key in witnesses.items())
        kinds = {key.kind for key in witnesses.values()} | {COSIGNATURE_V1}
        if value["origin"] != log.name or log.kind != ED25519 or not named or kinds != {COSIGNATURE_V1}:
            self._refuse(None, "expected keys of one ledger, found others; the header was altered.")
        if self.trusted is not None and self.trusted.log != log:
            self._refuse(
                None,
                f"expected the ledger {self.trusted.origin} of the agreement, found {log.name[:80]} or another key.",
            )
        for member, key in self.trusted.witnesses.items() if self.trusted is not None else ():
            if witnesses.get(member, key) != key:
                self._refuse(None, f"expected the agreement's key of {member}, found another; the header was altered.")
        return LedgerKeys(log, witnesses)

    def _entry(self, value: dict[str, Any], line: bytes) -> None:
        number = self.frontier.size
        if str(value["entry"]) != str(number):
            self._refuse(number, f"expected entry {number}, found {str(value['entry'])[:20]}; lines were moved or cut.")
        body = encode_line(value["body"])[:-1] if isinstance(value["body"], dict) else b""
        leaf = leaf_hash(body)
        if entry_line(number, body, leaf) != line:
            self._refuse(number, "expected the entry's own hash, found another; the entry or its hash was altered.")
        try:
            entry = parse_entry(body)
        except LedgerError as problem:
            self._refuse(number, str(problem))
        self.kinds[entry.kind] += 1
        self.frontier, _ = self.frontier.append(leaf)

    def _checkpoint(self, text: object, keys: LedgerKeys) -> None:
        size = self.frontier.size
        try:
            note = parse_note(str(text).encode())
            checkpoint = open_checkpoint(note, keys.log)
            witnesses = cosigned(note, keys)
        except LedgerError as problem:
            self._refuse(None, f"the checkpoint behind entry {size - 1}: {problem}")
        if checkpoint.size != size:
            self._refuse(
                min(size, checkpoint.size),
                f"expected {checkpoint.size} entries before this checkpoint, found {size}; entries were added or cut.",
            )
        if checkpoint.root != self.frontier.root():
            self._refuse(
                self.covered,
                f"one of the entries {self.covered} to {size - 1} is not what was signed: expected the checkpoint's"
                " root, found another; entries and their hashes were rewritten or swapped.",
            )
        self.covered, self.signed = size, True
        counted = {m: at for m, at in witnesses.items() if self.trusted is None or m in self.trusted.witnesses}
        if counted:
            self.cosigned_size, self.witnesses = size, counted

    def _end(self, line: bytes) -> None:
        size = self.frontier.size
        if not self.signed or self.covered != size:
            self._refuse(self.covered, f"expected a checkpoint over {size} entries, found none; it was taken out.")
        if line != encode_line({"end": {"entries": size, "sha256": self.digest.hexdigest()}}):
            self._refuse(None, "expected the count and hash of the lines before, found others; a line was altered.")
        self.ended = True

    def _next_entry(self, line: bytes) -> int | None:
        """Which entry a line is about that cannot be read."""
        return self.frontier.size if line.startswith(b'{"body"') else None

    def _refuse(self, entry: int | None, what: str) -> NoReturn:
        raise ExportRefused(self.line, entry, what)


def cosigned(note: Note, keys: LedgerKeys) -> dict[str, int]:
    """Who co-signed, and when; a line of anybody else has no place in an export.

    Raises:
        SignatureInvalid: A line does not verify, or is nobody's.
    """
    by_key = {(key.name, key.key_id): (member, key) for member, key in keys.witnesses.items()}
    witnesses: dict[str, int] = {}
    for line in note.signatures:
        if line.is_by(keys.log):
            keys.log.verify(note.text.encode(), line.signature)
            continue
        known = by_key.get((line.name, line.key_id))
        if known is None:
            raise SignatureInvalid(f"expected signatures of the header's keys, found one of {line.name[:80]!a}.")
        witnesses[known[0]] = verify_cosignature(note.text, line, known[1])
    return witnesses
