"""The node's scoring journal: on the disk before the answer, whatever ends the process."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nodes.scoring_journal import CHUNK_BYTES, Journal
from protos.scoring.v1.scoring_pb2 import StoredDisclosure


class Clock:
    def __init__(self):
        self.at = 1_800_000_000.0

    def __call__(self):
        return self.at


def entry(number, size=0):
    return StoredDisclosure(event=StoredDisclosure.OPENED, request_digest=number.to_bytes(32), entities=bytes(size))


def numbers(journal):
    return [int.from_bytes(found.request_digest) for found in journal.entries()]


def test_entries_are_read_back_in_order(tmp_path):
    journal = Journal(tmp_path, Clock())
    for number in range(20):
        journal.append(entry(number))
    journal.close()

    again = Journal(tmp_path, Clock())
    again.append(entry(20))
    again.close()
    assert numbers(again) == list(range(21))


def test_answer_waits_until_its_entry_was_flushed(tmp_path, monkeypatch):
    """The flush is held back: `when_durable` must not report the entry before it has happened."""
    held, real = threading.Event(), os.fdatasync

    def flush(file):
        held.wait(10)
        real(file)

    journal = Journal(tmp_path, Clock())
    monkeypatch.setattr("nodes.scoring_journal.os.fdatasync", flush)
    reached = threading.Event()
    ticket = journal.append(entry(1))
    assert not journal.when_durable(ticket, reached.set)
    assert not reached.is_set()
    held.set()
    assert reached.wait(10)
    assert journal.when_durable(ticket, reached.set)
    journal.close()


def test_entry_without_a_flush_of_its_own_is_flushed_when_somebody_waits_for_it(tmp_path):
    journal = Journal(tmp_path, Clock())
    journal.wait(journal.append(entry(1), flush=False))
    journal.close()
    assert numbers(journal) == [1]


def test_many_entries_share_a_flush(tmp_path, monkeypatch):
    started, held, real = threading.Event(), threading.Event(), os.fdatasync

    def flush(file):
        started.set()
        held.wait(10)
        real(file)

    journal = Journal(tmp_path, Clock())
    monkeypatch.setattr("nodes.scoring_journal.os.fdatasync", flush)
    journal.append(entry(0))
    started.wait(10)
    tickets = [journal.append(entry(number)) for number in range(1, 100)]
    held.set()
    journal.wait(tickets[-1])
    assert journal.flushes == 2
    journal.close()


def test_written_entry_survives_kill_9(tmp_path):
    script = f"""
import os, signal, pathlib
from nodes.scoring_journal import Journal
from protos.scoring.v1.scoring_pb2 import StoredDisclosure
journal = Journal(pathlib.Path({str(tmp_path)!r}), lambda: 1_800_000_000.0)
journal.append(StoredDisclosure(request_digest=(7).to_bytes(32)), flush=False)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, cwd=Path.cwd())
    assert done.returncode == -9
    journal = Journal(tmp_path, Clock())
    journal.close()
    assert numbers(journal) == [7]


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_torn_last_entry_is_dropped_and_written_over(tmp_path, damage):
    journal = Journal(tmp_path, Clock())
    journal.append(entry(1))
    end_of_first = journal._at
    journal.append(entry(2, size=100))
    journal.close()
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data[end_of_first + 20 : end_of_first + 200] = bytes(180)
    else:
        data[end_of_first + 30] ^= 1
    path.write_bytes(data)

    again = Journal(tmp_path, Clock())
    assert numbers(again) == [1]
    again.append(entry(3))
    again.close()
    assert numbers(again) == [1, 3]


def test_large_entry_makes_the_file_grow(tmp_path):
    journal = Journal(tmp_path, Clock())
    journal.append(entry(1, size=2 * CHUNK_BYTES))
    journal.append(entry(2))
    journal.close()
    assert numbers(journal) == [1, 2]


def test_every_day_has_its_file_and_old_ones_stay(tmp_path):
    clock = Clock()
    journal = Journal(tmp_path, clock)
    for number in range(5):
        journal.append(entry(number))
        clock.at += 86_400
    journal.close()
    assert len(list(tmp_path.iterdir())) == 5
    assert numbers(journal) == [2, 3, 4]


def test_journal_is_private(tmp_path):
    journal = Journal(tmp_path / "scoring", Clock())
    journal.close()
    (path,) = (tmp_path / "scoring").iterdir()
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
