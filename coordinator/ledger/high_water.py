"""The newest checkpoint that was ever signed, in a file beside the database, on the disk before the checkpoint leaves.

A database that was restored from a backup, or rewritten, no longer continues what the operator has signed: a start
would sign a fork. This file shows it, as the witnesses would, but before any checkpoint is signed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from policies.closed_model import shown_path
from policies.errors import UserError
from protos.ledger.checkpoints import Checkpoint, open_checkpoint
from protos.ledger.errors import LedgerError
from protos.ledger.notes import Note, NoteKey, parse_note


class HighWaterRefused(UserError):
    """The file does not say what it should."""


class HighWaterMark:
    """One file, written by every process that signs checkpoints of this log.

    Args:
        path: The file; made when the first checkpoint is signed.
        key: The log's key: the file is a signed note, so that nobody else can lower the mark unnoticed.
    """

    def __init__(self, path: Path, key: NoteKey) -> None:
        self._path = path
        self._key = key

    def read(self) -> Checkpoint | None:
        """The newest checkpoint that was signed, or None before the first.

        Raises:
            HighWaterRefused: The file is no checkpoint of this log.
        """
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return open_checkpoint(parse_note(raw), self._key)
        except LedgerError as problem:
            raise HighWaterRefused(f"{shown_path(self._path)}: {problem}") from None

    def raise_to(self, note: Note) -> None:
        """Put a checkpoint on the disk, unless a larger one is there: before it leaves this process."""
        checkpoint = Checkpoint.parse(note.text)
        with self._locked():
            newest = self.read()
            if newest is not None and newest.size >= checkpoint.size:
                return
            fresh = self._path.with_suffix(".new")
            with os.fdopen(os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(note.encode().encode())
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
