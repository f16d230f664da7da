"""`tallystick score --gateway` and `tallystick match` against a running gateway, and what they say when it refuses."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
import tomli_w
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from nodes.evidence import evidence_of
from policies import documents
from policies.federated_model import FederatedModel
from simulations.scoring_consortium import CLIENT, LAYOUT, MODEL_VERSION, PURPOSE, ROLES, TASK, found
from simulations.scoring_live import LiveScoring
from tallystick.__main__ import main

MODEL = FederatedModel(
    run_id="run-1",
    task=TASK,
    version=MODEL_VERSION,
    bias=-2.0,
    pdo_points=20.0,
    base_points=600.0,
    base_odds=50.0,
    reason_codes=LAYOUT.reason_codes,
)
INVOICE = {
    "seller_tax_id": "DE811128135",
    "buyer_tax_id": "FR40303265045",
    "date": "2026-11-02",
    "amount": "1200.00",
    "currency": "EUR",
}
BOOKS = {
    "bank-1": [{"number": "pledged", "pledged": "1"}],
    "bank-2": [{"number": "pledged", "pledged": "1"}],
    "payment-1": [{"number": n, "paid_amount": "1195"} for n in ("all", "pledged", "paid only")],
    "logistics-2": [{"number": "all", "shipped": "1"}, {"number": "shipped only", "shipped": "1"}],
}
NUMBERS = ("all", "pledged", "paid only", "shipped only", "nothing")


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    consortium = found(tmp_path_factory.mktemp("verbs") / "consortium", 6, 300)
    books = {
        member: evidence_of(pd.DataFrame([INVOICE | row for row in rows]), consortium.token_key, 2.0)[0]
        for member, rows in BOOKS.items()
    }
    policy = {"tasks": (TASK, documents.TASK), "answers_per_entity": 100}
    with LiveScoring(consortium, books=books, policy_changes=policy) as running:
        MODEL.save(consortium.folder / "federated_model.json")
        (consortium.folder / "agreement.toml").write_text(tomli_w.dumps(consortium.agreement.model_dump(mode="json")))
        pem = consortium.issuer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (consortium.folder / "issuer.pem").write_bytes(pem)
        (consortium.folder / "issuer.pem").chmod(0o600)
        running.unasked = iter(range(300))
        yield running


class Verbs:
    """A folder with a caller's files, and the options that every call has."""

    def __init__(self, live, folder, monkeypatch):
        self.live, self.folder, self.root = live, folder, live.consortium.folder
        monkeypatch.chdir(folder)

    def access(self, **changes):
        options = {
            "--gateway": f"127.0.0.1:{self.live.port}",
            "--ca": str(self.root / "coordinator" / "keys" / "consortium-ca.crt"),
            "--cert": str(self.root / "client" / f"{CLIENT}.crt"),
            "--grant": "g.grant",
        }
        return [part for option in (options | changes).items() for part in option if option[1] is not None]

    def issue(self, *more, rows="ids.txt", purpose=PURPOSE):
        fixed = ["--agreement", str(self.root / "agreement.toml"), "--in", rows, "--purpose", purpose]
        keys = ["--issuer-key", str(self.root / "issuer.pem"), "--token-key", str(self.root / "token.key")]
        assert main(["grant", "issue", *fixed, *keys, "--out", "g.grant", *more]) == 0

    def score(self, *more, **changes):
        return main(["score", "--model", str(self.root), *self.access(**changes), *more])

    def match(self, *more, **changes):
        return main(["match", *self.access(**changes), *more])

    def fresh(self, count):
        """Identifiers of entities that three members know, not asked about before."""
        found = []
        while len(found) < count:
            number = next(self.live.unasked)
            if self.live.consortium.pooled([self.live.consortium.tokens[number]])[0, 1] == 3:
                found.append(number)
        return found


@pytest.fixture
def verbs(live, tmp_path, monkeypatch):
    return Verbs(live, tmp_path, monkeypatch)


def only_sentence(capsys):
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("Error: ")
    return err


# ---- scores ----


def test_federated_score_of_identifiers_is_the_pooled_score(verbs, capsys):
    numbers = verbs.fresh(3)
    (verbs.folder / "ids.txt").write_text("\n".join(map(str, numbers)))
    verbs.issue()
    capsys.readouterr()
    by_name = ["--in", "ids.txt", "--token-key", str(verbs.root / "token.key")]
    assert verbs.score(*by_name, "--agreement", str(verbs.root / "agreement.toml"), "--json") == 0
    shown = json.loads(capsys.readouterr().out)

    assert (shown["model"], shown["degraded"], shown["absent_roles"]) == (MODEL_VERSION, False, [])
    for number, row in zip(numbers, shown["scores"], strict=True):
        total = verbs.live.consortium.pooled([verbs.live.consortium.tokens[number]])[0]
        assert row["entity"] == str(number)
        assert row["pd"] == pytest.approx(1 / (1 + np.exp(2.0 - total[0] / 64)), abs=1e-8)
        assert row["points"] == pytest.approx(MODEL.points(int(total[0])), abs=0.01)
        voted = {code for code, votes in zip(LAYOUT.reason_codes, total[LAYOUT.votes], strict=True) if votes}
        assert set(row["reasons"]) <= voted
        assert len(row["reasons"]) == min(4, len(voted))


def test_caller_without_the_members_key_scores_what_its_grant_covers(verbs, capsys):
    (verbs.folder / "ids.txt").write_text("\n".join(map(str, verbs.fresh(2))))
    verbs.issue()
    capsys.readouterr()
    assert verbs.score("--out", "scores.csv") == 0
    rows = list(csv.DictReader(io.StringIO((verbs.folder / "scores.csv").read_text())))

    assert [row["outcome"] for row in rows] == ["scored", "scored"]
    assert all(0 < float(row["pd"]) < 1 and len(row["entity"]) == 64 for row in rows)
    assert "2 scores by model" in capsys.readouterr().out


def test_entity_that_nobody_knows_is_shown_as_unknown(verbs, capsys):
    (verbs.folder / "ids.txt").write_text("987654321\n")
    verbs.issue()
    capsys.readouterr()
    assert verbs.score() == 0
    assert "unknown to every member" in capsys.readouterr().out


def test_absent_member_is_shown_by_its_role(verbs, capsys):
    gone = verbs.live.consortium.members[-1]
    (verbs.folder / "ids.txt").write_text(f"{verbs.fresh(1)[0]}\n")
    verbs.issue()
    verbs.live.stop(gone)
    capsys.readouterr()
    try:
        code = verbs.score()
    finally:
        verbs.live.start(gone)
    assert code == 0
    assert f"absent of: {gone.rpartition('-')[0]}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"--gateway": "127.0.0.1:1"}, "found no connection"),
        ({"--gateway": "nowhere"}, "expected host:port"),
        ({"--grant": None}, "expected --grant"),
        ({"--grant": "absent.grant"}, "absent.grant"),
        ({"--cert": "absent.crt"}, "absent"),
        ({"--purpose": "marketing"}, "purpose"),
        ({"--token": "00" * 32}, "found 1 of 1 not covered"),
        ({"--token": "00"}, "64 hexadecimal digits"),
        ({"--entity": "7"}, "expected --token-key and --agreement"),
        ({"--version": "00" * 32}, "use the right file"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(verbs, capsys, changes, sentence):
    (verbs.folder / "ids.txt").write_text("987654320\n")
    verbs.issue()
    capsys.readouterr()
    assert verbs.score(**changes) in {1, 2}
    assert sentence in only_sentence(capsys)


def test_client_that_was_not_admitted_is_told_so(verbs, capsys):
    (verbs.folder / "ids.txt").write_text("987654320\n")
    verbs.issue()
    keys = verbs.live.consortium.key_dir("bank-1")
    capsys.readouterr()
    assert verbs.score(**{"--cert": str(keys / "bank-1.crt"), "--key": str(keys / "tls.pem")}) == 1
    assert "does not know this client" in only_sentence(capsys)


def test_refusal_of_the_nodes_reaches_the_caller_in_their_words(verbs, capsys):
    (verbs.folder / "ids.txt").write_text(f"{verbs.fresh(1)[0]}\n")
    verbs.issue()
    other = MODEL.model_copy(update={"version": "ee" * 32})
    other.save(verbs.folder / "federated_model.json")
    capsys.readouterr()
    assert main(["score", "--model", str(verbs.folder), *verbs.access()]) == 1
    assert "(model_version)" in only_sentence(capsys)


# ---- matches ----


def write_documents(verbs):
    frame = pd.DataFrame([INVOICE | {"number": number} for number in NUMBERS])
    frame.to_csv(verbs.folder / "documents.csv", index=False)
    verbs.issue("--documents", rows="documents.csv")


def test_c7_documents_are_matched_already_financed_or_not_matched_and_nothing_more_is_said(verbs, capsys):
    write_documents(verbs)
    capsys.readouterr()
    key = str(verbs.root / "token.key")
    assert verbs.match("--in", "documents.csv", "--token-key", key, "--json") == 0
    shown = json.loads(capsys.readouterr().out)

    assert [(row["document"], row["result"], row["missing"]) for row in shown["documents"]] == [
        ("1:all", "matched", []),
        ("2:pledged", "already financed", ["shipped"]),
        ("3:paid only", "not matched", ["shipped"]),
        ("4:shipped only", "not matched", ["paid", "amount"]),
        ("5:nothing", "not matched", ["paid", "amount", "shipped"]),
    ]
    assert not any(role in json.dumps(shown) for role in ROLES)


def test_caller_without_the_key_matches_what_its_grant_covers_and_chooses_what_a_match_is(verbs, capsys):
    write_documents(verbs)
    capsys.readouterr()
    assert verbs.match("--require", "paid", "--json") == 0
    shown = json.loads(capsys.readouterr().out)

    assert sorted(row["result"] for row in shown["documents"]) == [
        "already financed",
        "matched",
        "matched",
        "not matched",
        "not matched",
    ]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--require", "paid,stolen"], "expected kinds of paid, amount, shipped, delivered, pledged"),
        (["--in", "documents.csv"], "expected --token-key"),
    ],
)
def test_wrong_option_of_a_match_is_one_sentence(verbs, capsys, more, sentence):
    write_documents(verbs)
    capsys.readouterr()
    assert verbs.match(*more) == 2
    assert sentence in only_sentence(capsys)


def test_document_that_lacks_a_field_is_named_by_its_row(verbs, capsys):
    write_documents(verbs)
    frame = pd.read_csv(verbs.folder / "documents.csv", dtype=str)
    frame.loc[2, "amount"] = "1.200,00"
    frame.to_csv(verbs.folder / "documents.csv", index=False)
    capsys.readouterr()
    assert verbs.match("--in", "documents.csv", "--token-key", str(verbs.root / "token.key")) == 1
    assert "row 3: field 'amount'" in only_sentence(capsys)
