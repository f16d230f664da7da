"""Publishing partial scores, and a node that takes them up while it runs."""

import stat

import numpy as np
import pytest

from models.score_slots import ScoreSlots
from nodes.entity_tokens import EntityTokens
from nodes.membership import Membership
from nodes.score_publication import publish_scores
from nodes.scoring_tables import EntityTable, ScoreTables, publish
from policies.errors import AgreementRefused, SettingsRefused
from policies.guard import NodePolicy
from policies.token_key import TokenKey, create_token_key, load_token_key
from protos.sealed_sum.keys import SigningKey
from simulations.roles import agreement_of_roles

ROLES = {"bank-a": "bank", "payment-a": "payment", "logistics-a": "logistics"}
VERSION = "ab" * 32
LAYOUT = ScoreSlots(("A", "B"))
TOKENS = EntityTokens(TokenKey(bytes(range(32))), "digits").of(str(n) for n in range(5))


def table(value, count=2):
    return EntityTable.of(LAYOUT, TOKENS[:count], np.full((count, LAYOUT.width), value))


# ---- a folder of tables ----


def test_table_is_taken_up_replaced_and_withdrawn_while_the_node_runs(tmp_path):
    folder = tmp_path / "tables"
    tables = ScoreTables(folder)
    assert dict(tables) == {}

    publish(folder, "credit", VERSION, table(1))
    tables.refresh()
    first = tables["credit", VERSION]
    publish(folder, "credit", VERSION, table(2, count=3))
    tables.refresh()
    second = tables["credit", VERSION]
    (folder / f"credit.{VERSION}.npz").unlink()
    tables.refresh()

    assert first.slots[0, 0] == 1
    assert (second.slots[0, 0], len(second.rows)) == (2, 3)
    assert dict(tables) == {}


def test_published_table_is_private_and_leaves_nothing_half_written(tmp_path):
    path = publish(tmp_path / "tables", "credit", VERSION, table(1))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_publication_that_fails_leaves_the_old_table_and_no_rest(tmp_path, monkeypatch):
    path = publish(tmp_path / "tables", "credit", VERSION, table(1))
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("policies.grant_files.os.fsync", full)
    with pytest.raises(SettingsRefused, match="No space left"):
        publish(tmp_path / "tables", "credit", VERSION, table(2))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_file_that_is_no_table_stops_the_start_and_not_a_running_node(tmp_path, caplog):
    folder = tmp_path / "tables"
    path = publish(folder, "credit", VERSION, table(1))
    tables = ScoreTables(folder)
    path.write_bytes(b"PK no table")
    tables.refresh()

    assert tables["credit", VERSION].slots[0, 0] == 1
    assert "expected a table of partial scores" in caplog.text
    with pytest.raises(SettingsRefused, match="expected a table of partial scores"):
        ScoreTables(folder)


@pytest.mark.parametrize(("task", "version"), [("../credit", VERSION), ("credit", "../x"), ("credit", ""), ("", "x")])
def test_words_that_could_leave_the_folder_are_refused(tmp_path, task, version):
    with pytest.raises(SettingsRefused, match="model version"):
        publish(tmp_path / "tables", task, version, table(1))


def test_watching_thread_takes_up_what_was_published(tmp_path):
    tables = ScoreTables(tmp_path / "tables")
    tables.start()
    publish(tmp_path / "tables", "credit", VERSION, table(1))
    try:
        while ("credit", VERSION) not in tables:
            tables._stop.wait(0.05)
    finally:
        tables.stop()
    assert tables["credit", VERSION].layout == LAYOUT


# ---- from a tower's contributions ----


@pytest.fixture
def bank():
    keys = {member: SigningKey.from_bytes(bytes([n]) * 32).public_bytes for n, member in enumerate(sorted(ROLES), 1)}
    agreement = agreement_of_roles(ROLES, keys, SigningKey.from_bytes(bytes([9]) * 32).public_bytes, id_type="digits")
    policy = NodePolicy(
        format="tallystick-node-policy/1", tasks=(), purposes=(), methods=(), min_cohort=3, max_rounds=1
    )
    return Membership("bank-a", SigningKey.from_bytes(bytes([1]) * 32), agreement, policy)


SCORING = '[scoring]\ngateway = "co:1"\npolicy_path = "scoring.toml"\ntables_dir = "tables"\n'
WITH_KEY = SCORING + 'token_key_path = "token.key"\n'


def published(bank, found, **changes):
    code = bank.agreement.features_of("bank")[0].reason_code
    asked = {
        "task": "credit",
        "model_version": VERSION,
        "ids": ["7", "0-08", None, "x", "7 "],
        "contributions": np.array([[0.5], [-1.0], [9.0], [9.0], [9.0]]),
        "reason_codes": (code,),
    }
    return publish_scores(found, bank, **(asked | changes))


def test_published_scores_are_found_under_the_tokens_of_the_normal_form(tmp_path, bank, node_settings):
    create_token_key(tmp_path / "token.key")
    found = published(bank, node_settings(WITH_KEY))
    served = ScoreTables(tmp_path / "tables")["credit", VERSION]
    tokens = EntityTokens(load_token_key(tmp_path / "token.key"), "digits").of(["7", "008", "9"])
    slots = served.vector(tokens, answers=True).view(np.int64).reshape(3, -1)

    assert (found.num_entities, found.num_malformed, found.num_repeated) == (2, 2, 1)
    assert served.layout == ScoreSlots.of_agreement(bank.agreement)
    assert slots[:, :2].tolist() == [[32, 1], [-64, 1], [0, 0]]
    assert slots[:, served.layout.votes].sum(axis=1).tolist() == [1, 0, 0]


def test_node_that_serves_no_scores_publishes_none(bank, node_settings):
    assert published(bank, node_settings()) is None


def test_publication_without_a_token_key_is_one_sentence(bank, node_settings):
    with pytest.raises(SettingsRefused, match="token key"):
        published(bank, node_settings(SCORING))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"task": "fraud"}, AgreementRefused),
        ({"contributions": np.zeros((5, 2))}, ValueError),
        ({"contributions": np.full((5, 1), np.nan)}, ValueError),
        ({"reason_codes": ("OTHER",)}, ValueError),
    ],
)
def test_scores_that_do_not_fit_the_agreement_are_refused(tmp_path, bank, changes, error, node_settings):
    create_token_key(tmp_path / "token.key")
    with pytest.raises(error):
        published(bank, node_settings(WITH_KEY), **changes)
    assert not (tmp_path / "tables").exists()
