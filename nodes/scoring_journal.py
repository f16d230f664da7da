"""The node's append-only journal of what it disclosed in scoring: written before, and on the disk before, it leaves.

One preallocated file a day, so that a flush writes data and no file-system metadata. Appending is a `write`, which
survives `kill -9`; a thread of its own flushes whatever has been appended since, for all requests at once, and an
answer waits for the flush that covers its entry.
"""

from __future__ import annotations

import datetime as dt
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from protos.scoring.v1.scoring_pb2 import StoredDisclosure

CHUNK_BYTES = 4 << 20
_FRAME = struct.Struct("<II")  # length and CRC-32 of the entry; a zero length is the preallocated end
_DAY_S = 86_400
_DAYS_READ = 3  # no lock or budget reaches further back


def boot_id() -> str:
    """Changes with every start of the machine: same id, nothing that was written is lost."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Journal:
    """Append, wait until it is on the disk, and read the last days back.

    Args:
        folder: Of mode 0700, made when needed.
        now: Clock, Unix seconds.
    """

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._now = now
        self._lock = threading.Condition()
        self._written = self._wanted = self._durable = 0
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._closed = False
        self.flushes = 0
        self._day = -1
        self._file = -1
        self._at = self._room = 0
        self._open_day()
        self._thread = threading.Thread(target=self._flush, name="scoring-journal", daemon=True)
        self._thread.start()

    def append(self, entry: StoredDisclosure, *, flush: bool = True) -> int:
        """Write an entry.

        Args:
            entry: What happens next.
            flush: Whether it is to reach the disk now; else it does with the next one that is, or after `flush_soon`.

        Returns:
            A ticket for `when_durable`.
        """
        body = entry.SerializeToString()
        frame = _FRAME.pack(len(body), zlib.crc32(body)) + body
        with self._lock:
            if self._today() != self._day:
                self._open_day()
            if self._at + len(frame) + _FRAME.size > self._room:
                self._grow(len(frame))
            os.pwrite(self._file, frame, self._at)
            self._at += len(frame)
            self._written += 1
            if flush:
                self._wanted = self._written
                self._lock.notify()
            return self._written

    def flush_soon(self, ticket: int) -> None:
        """Have an entry flushed that was appended without; for when other things had to be done first."""
        with self._lock:
            if self._wanted < ticket:
                self._wanted = ticket
                self._lock.notify()

    def when_durable(self, ticket: int, done: Callable[[], None]) -> bool:
        """Whether the entry is on the disk already; if not, `done` is called (from another thread) once it is."""
        with self._lock:
            if self._durable >= ticket:
                return True
            if self._wanted < ticket:
                self._wanted = ticket
                self._lock.notify()
            self._waiting.append((ticket, done))
            return False

    def wait(self, ticket: int) -> None:
        """Block until the entry is on the disk."""
        reached = threading.Event()
        if not self.when_durable(ticket, reached.set):
            reached.wait()

    def entries(self) -> Iterator[StoredDisclosure]:
        """Entries of the last days, oldest first; a torn end is where reading stops."""
        for path in sorted(self._folder.glob("scoring-*.journal"))[-_DAYS_READ:]:
            data = path.read_bytes()
            at = 0
            while at + _FRAME.size <= len(data):
                length, checksum = _FRAME.unpack_from(data, at)
                body = data[at + _FRAME.size : at + _FRAME.size + length]
                if not length or zlib.crc32(body) != checksum:
                    break
                at += _FRAME.size + length
                try:
                    yield StoredDisclosure.FromString(body)
                except DecodeError:
                    break

    def close(self) -> None:
        """Flush and close."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        self._thread.join()
        os.close(self._file)

    def _today(self) -> int:
        return int(self._now() // _DAY_S)

    def _open_day(self) -> None:
        if self._file >= 0:
            os.fdatasync(self._file)
            os.close(self._file)
        self._day = self._today()
        day = dt.datetime.fromtimestamp(self._day * _DAY_S, dt.UTC)
        path = self._folder / f"scoring-{day:%Y%m%d}.journal"
        self._file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        self._room = os.fstat(self._file).st_size
        self._at = _end_of(path.read_bytes())
        if self._room - self._at < CHUNK_BYTES // 4:
            self._grow(0)

    def _grow(self, frame_bytes: int) -> None:
        more = max(CHUNK_BYTES, 2 * frame_bytes)
        os.pwrite(self._file, bytes(more), self._room)
        os.fsync(self._file)
        self._room += more

    def _flush(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._closed or self._wanted > self._durable)
                if self._written == self._durable:
                    return
                target, file = self._written, os.dup(self._file)
            try:
                os.fdatasync(file)
            finally:
                os.close(file)
            self.flushes += 1
            with self._lock:
                self._durable = target
                reached = [done for ticket, done in self._waiting if ticket <= target]
                self._waiting = [(ticket, done) for ticket, done in self._waiting if ticket > target]
            for done in reached:
                done()


def _end_of(data: bytes) -> int:
    at = 0
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        if not length or zlib.crc32(data[at + _FRAME.size : at + _FRAME.size + length]) != checksum:
            break
        at += _FRAME.size + length
    return at
