"""The node's state file: what survives a crash, what an older copy may not do, what is overwritten."""

import shutil
import sqlite3
import stat

import pytest

from nodes.store import NodeStateRefused, NodeStore, OpenedRecord

RUN = "run-00000001"
KEY = bytes(range(200, 232)) * 300
"""Long enough to need pages of its own."""


def with_open_run(folder):
    store = NodeStore(folder)
    store.add_run(RUN, b"proposal", b"state", b"announcement")
    store.set_keyed(RUN, KEY, attempt=0, deals={"bank-2": b"deal"}, confirmation=b"confirmation")
    store.set_ready(RUN, KEY)
    store.save_upload(RUN, b"memory", b"upload" * 1000)
    return store


def phase_of(folder):
    store = NodeStore(folder)
    record = store.run(RUN)
    store.close()
    return record.phase


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state"


def copy_of(folder, target):
    shutil.copytree(folder, target)
    return target


# ---- older copies ----


def test_a_restarted_node_keeps_its_open_runs(folder):
    with_open_run(folder).close()
    for _ in range(3):
        assert phase_of(folder) == "ready"


def test_a_node_killed_without_closing_keeps_its_open_runs(folder):
    store = with_open_run(folder)  # never closed: its write-ahead log is still there
    assert phase_of(folder) == "ready"
    store.close()


def test_a_moved_folder_keeps_its_open_runs(folder, tmp_path):
    with_open_run(folder).close()
    assert phase_of(folder.rename(tmp_path / "moved")) == "ready"


def assert_refused_as_a_copy(folder):
    store = NodeStore(folder)
    record = store.run(RUN)
    assert record.phase == "ended"
    assert record.end_reason == "the state was restored from a copy, which may have answered already"
    assert record.state == record.memory == record.joined == store.blob(RUN, "upload") == b""
    store.close()
    assert phase_of(folder) == "ended"


def test_a_copied_folder_refuses_its_open_runs_and_so_does_the_original_put_back(folder, tmp_path):
    with_open_run(folder).close()
    assert_refused_as_a_copy(copy_of(folder, tmp_path / "elsewhere"))
    backup = copy_of(folder, tmp_path / "backup")
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)  # the file system hands out the same inode numbers again
    assert_refused_as_a_copy(folder)


@pytest.mark.parametrize("how", ["in_place", "removed_first"])
def test_an_older_database_put_back_alone_refuses_its_open_runs(folder, tmp_path, how):
    """`cp backup/node.sqlite state/` keeps the inode of the file it overwrites."""
    with_open_run(folder).close()
    backup = copy_of(folder, tmp_path / "backup")
    store = NodeStore(folder)
    store.save_memory(RUN, b"shares given")
    store.close()
    database = folder / "node.sqlite"
    inode = database.stat().st_ino
    if how == "removed_first":
        database.unlink()
    shutil.copyfile(backup / "node.sqlite", database)
    if how == "in_place":
        assert database.stat().st_ino == inode

    assert_refused_as_a_copy(folder)


def test_an_older_database_is_noticed_after_a_newer_one_was_lost(folder, tmp_path):
    with_open_run(folder).close()
    backup = copy_of(folder, tmp_path / "backup")
    store = NodeStore(folder)
    store.save_memory(RUN, b"shares given")
    store.close()
    (folder / "node.sqlite").unlink()
    NodeStore(folder).close()  # an empty state in between
    shutil.copyfile(backup / "node.sqlite", folder / "node.sqlite")

    assert_refused_as_a_copy(folder)


@pytest.mark.parametrize("missing", ["origin", "commits"])
def test_a_folder_without_one_of_its_two_small_files_is_safe(folder, missing):
    """Without `origin` it is taken for a copy; without the counter it is as before."""
    with_open_run(folder).close()
    (folder / missing).unlink()
    assert phase_of(folder) == ("ended" if missing == "origin" else "ready")


def test_a_counter_that_lags_behind_after_a_power_cut_is_no_copy(folder):
    with_open_run(folder).close()
    (folder / "commits").write_bytes((1).to_bytes(8, "little"))
    assert phase_of(folder) == "ready"


def test_a_finished_model_outlives_the_copying(folder, tmp_path):
    store = with_open_run(folder)
    store.save_model(RUN, b"model")
    store.close()
    copied = NodeStore(copy_of(folder, tmp_path / "elsewhere"))
    assert copied.blob(RUN, "model") == b"model"
    copied.close()


# ---- transactions ----


def test_two_processes_may_have_the_file_open_and_neither_is_taken_for_a_copy(folder):
    store = with_open_run(folder)
    beside = NodeStore(folder)
    for _ in range(3):
        beside.journal("at", RUN, "read beside")
        store.save_memory(RUN, b"more")
    beside.close()
    store.close()
    assert phase_of(folder) == "ready"


def test_an_opening_is_committed_as_a_whole_or_not_at_all(folder):
    store = with_open_run(folder)
    opening = OpenedRecord(0, "aa", ("bank-1",), b"chain", "bins", "static", {"rows": 3.0})
    store.commit_opening(RUN, opening, b"memory-1", b"snapshot-1")
    store.save_upload(RUN, b"memory-2", b"upload-2")
    with pytest.raises(sqlite3.IntegrityError):
        store.commit_opening(RUN, opening, b"memory-3", b"snapshot-3")  # the same number again

    record = store.run(RUN)
    assert (record.next_k, record.previous, record.memory) == (1, b"chain", b"memory-2")
    assert store.blob(RUN, "snapshot") == b"snapshot-1"
    assert store.blob(RUN, "upload") == b"upload-2"
    assert store.openings(RUN) == [opening]
    store.close()


def test_a_run_is_recorded_once(folder):
    store = with_open_run(folder)
    with pytest.raises(sqlite3.IntegrityError):
        store.add_run(RUN, b"other proposal", b"other state", b"other announcement")
    assert store.run(RUN).proposal == b"proposal"
    store.close()


# ---- keys ----


def test_a10_nothing_of_a_key_is_left_in_any_file_of_the_folder_when_the_run_ends(folder):
    store = with_open_run(folder)
    store.end_run(RUN, "finished")
    for path in folder.iterdir():
        assert KEY[:32] not in path.read_bytes(), path.name
        assert b"uploadupload" not in path.read_bytes(), path.name
    store.close()


def test_a10_nothing_of_a_key_is_left_in_a_copy_that_was_refused(folder, tmp_path):
    with_open_run(folder).close()
    copied = copy_of(folder, tmp_path / "elsewhere")
    assert any(KEY[:32] in path.read_bytes() for path in copied.iterdir())
    store = NodeStore(copied)
    assert not any(KEY[:32] in path.read_bytes() for path in copied.iterdir())
    store.close()


def test_the_state_folder_is_for_its_owner_alone(folder):
    folder.mkdir(mode=0o755)
    store = with_open_run(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    store.close()


# ---- files that are none ----


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\x00" + bytes(4000)])
def test_a_file_that_is_no_database_is_refused_with_a_sentence(folder, content):
    folder.mkdir()
    (folder / "node.sqlite").write_bytes(content)
    with pytest.raises(NodeStateRefused, match=r"found a file that SQLite cannot read .*; move it away"):
        NodeStore(folder)


def test_a_state_of_another_release_is_refused_with_a_sentence(folder):
    with_open_run(folder).close()
    db = sqlite3.connect(folder / "node.sqlite")
    db.execute("update meta set value = '99' where key = 'schema'")
    db.commit()
    db.close()
    with pytest.raises(NodeStateRefused, match="has state version 99, this release reads version 1"):
        NodeStore(folder)
