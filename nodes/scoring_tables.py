"""What a node knows of each entity, computed before anybody asks: a look-up then costs the same for everyone (C5)."""

from __future__ import annotations

import io
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from models.score_slots import ScoreSlots, Slots
from policies.closed_model import SNAKE_CASE, shown, shown_path
from policies.errors import SettingsRefused
from policies.grant_files import write_replacing
from policies.key_files import make_private_folder
from protos.masked_sum.masking import Vector
from protos.masked_sum.member import signed_values
from protos.masked_sum.request import TOKEN_BYTES, split_tokens

log = logging.getLogger(__name__)

_ANY_NON_ZERO = (1 << 64) - 1
_VERSION = r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}"
_LOOK_AGAIN_S = 0.5


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
        """Write the table, all of it or nothing, mode 0600; it is this member's data and stays on its machine.

        Raises:
            SettingsRefused: It cannot be written.
        """
        tokens = np.frombuffer(b"".join(self.rows), dtype=np.uint8).reshape(-1, TOKEN_BYTES)
        content = io.BytesIO()
        np.savez(
            content,
            tokens=tokens,
            slots=self.slots[:-1],
            reason_codes=np.array(self.layout.reason_codes, dtype=np.str_),
            evidence=np.array(self.layout.evidence, dtype=np.str_),
            scores=np.array(self.layout.scores),
        )
        write_replacing(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> EntityTable:
        """Read what `save` wrote; nothing in it is executed.

        Raises:
            SettingsRefused: It is no table.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                layout = ScoreSlots(
                    tuple(map(str, stored["reason_codes"])), tuple(map(str, stored["evidence"])), bool(stored["scores"])
                )
                joined = stored["tokens"].tobytes()
                return cls.of(layout, split_tokens(joined), stored["slots"].astype(np.int64))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise SettingsRefused(
                f"{shown_path(path)}: expected a table of partial scores, found something else; make it again."
            ) from error

    def count_unknown(self, tokens: Sequence[bytes]) -> int:
        """How many of these entities this member does not know."""
        return sum(token not in self.rows for token in tokens)

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


def table_path(folder: Path, task: str, model_version: str) -> Path:
    """Where the table of a model version lies.

    Raises:
        SettingsRefused: Task or version could not be part of a file's name.
    """
    if not re.fullmatch(SNAKE_CASE, task) or not re.fullmatch(_VERSION, model_version):
        raise SettingsRefused(
            f"expected a task of the agreement and a model version of letters, digits, hyphens and underscores, found"
            f" {shown(task)} and {shown(model_version)}; use the SHA-256 of the model as its version."
        )
    return folder / f"{task}.{model_version}.npz"


def publish(folder: Path, task: str, model_version: str, table: EntityTable) -> Path:
    """Put a table where a running node takes it up within a second; it replaces one of the same version.

    Args:
        folder: `tables_dir` of the node's settings; made when needed, mode 0700.
        task: Of the agreement.
        model_version: As requests name it.
        table: What this member knows.

    Raises:
        SettingsRefused: It cannot be written.
    """
    path = table_path(folder, task, model_version)
    make_private_folder(folder)
    table.save(path)
    return path


class ScoreTables(Mapping[tuple[str, str], EntityTable]):
    """The tables of a folder, `<task>.<model version>.npz`; what is put there, replaced or taken away counts at once.

    A request's words are looked up in memory and never become part of a path.

    Args:
        folder: May be absent or empty: then no model version is served yet.

    Raises:
        SettingsRefused: A file of that name in the folder is no table.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, _Stamp] = {}
        self._tables: dict[tuple[str, str], EntityTable] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="scoring-tables", daemon=True)
        self.refresh(at_start=True)

    def __getitem__(self, key: tuple[str, str]) -> EntityTable:
        return self._tables[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def start(self) -> None:
        """Look at the folder again every half second, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def refresh(self, *, at_start: bool = False) -> None:
        """Take up what has changed in the folder. A file that is no table leaves what was served before.

        Raises:
            SettingsRefused: At the start alone: a file is no table.
        """
        found = {path.name: _stamp(path) for path in self._folder.glob("*.*.npz")}
        seen = {name: stamp for name, stamp in found.items() if stamp is not None}
        if seen == self._seen:
            return
        tables = dict(self._tables)
        for name in self._seen.keys() - seen.keys():
            tables.pop(_key_of(name), None)
            log.info("no longer served: %s", name)
        for name, stamp in seen.items():
            if stamp == self._seen.get(name):
                continue
            try:
                tables[_key_of(name)] = EntityTable.load(self._folder / name)
                log.info("served from now on: %s", name)
            except SettingsRefused as refused:
                if at_start:
                    raise
                log.warning("%s", refused)
        # Replaced whole: the thread that answers sees the old tables or the new ones.
        self._seen, self._tables = seen, tables

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_AGAIN_S):
            try:
                self.refresh()
            except OSError as problem:
                log.warning("the tables of partial scores cannot be read: %s", problem.strerror)


_Stamp = tuple[int, int, int]
"""Inode, size and time of change, by which a file that was replaced is noticed."""


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except FileNotFoundError:  # taken away since the folder was listed
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _key_of(name: str) -> tuple[str, str]:
    task, version = name.removesuffix(".npz").split(".", 1)
    return task, version
