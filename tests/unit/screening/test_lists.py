"""List files: read within bounds, checked against their manifest, refused in one sentence otherwise."""

import datetime as dt
import hashlib
import json
import shutil

import pytest

from policies.screening import lists as lists_module
from policies.screening.lists import DEFAULT_FOLDER, ScreeningLists
from policies.screening.names import ScreeningRefused
from policies.screening.screen import Screener, Subject

TODAY = dt.date(2026, 11, 25)
SDN = "ofac-sdn-sample/2026-01-01"
FATF = "fatf-sample/2025-10-24"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(DEFAULT_FOLDER, tmp_path / "lists")


def _rewrite(folder, place, name, content, **changes):
    """Replace a data file and state its hash, as an operator would after fetching it."""
    (folder / place / name).write_bytes(content)
    path = folder / place / "list.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    path.write_text(json.dumps({**manifest, **changes}), encoding="utf-8")


def _row(number, name, columns=12):
    return (f'{number},"{name}"' + ",-0- " * (columns - 2) + "\r\n").encode()


def test_the_shipped_lists_say_in_the_file_that_they_are_samples(lists):
    assert {version.kind for version in lists.versions} == {"sample"}
    for path in DEFAULT_FOLDER.glob("*/*/list.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["description"].startswith("SAMPLE")
    sdn = (DEFAULT_FOLDER / SDN / "sdn.csv").read_text(encoding="utf-8")
    assert all("SAMPLE: invented name" in line for line in sdn.splitlines())


def test_names_aliases_and_jurisdictions_are_read(lists):
    assert len(lists.names) == 55
    assert {one.primary for one in lists.names if one.name == "VALDRENCO, Iosif"} == {"VALDRENKO, Osip Maratovich"}
    assert lists.status_of("KP") == "call_for_action_countermeasures"
    assert lists.status_of("VN") == "increased_monitoring"
    assert lists.status_of("DE") == "none"


@pytest.mark.parametrize("code", ["XX", "kp", "KPR", "", "ZZ", "K P", "North Korea"])
def test_a_code_that_nobody_knows_is_not_taken_for_one_that_is_on_no_list(lists, screener, code):
    assert lists.status_of(code) == "unknown"
    assert screener.screen(Subject(names=("Li Wei",), countries=(code,))).codes == ("JURISDICTION_UNKNOWN",)


@pytest.mark.parametrize(
    ("countries", "verdict", "codes"),
    [
        (("SG", "DE"), "clear", ()),
        (("SG", "KP"), "blocked", ("JURISDICTION_BLOCKED",)),
        (("IR",), "blocked", ("JURISDICTION_BLOCKED",)),
        (("MM",), "referred", ("JURISDICTION_HIGH_RISK",)),
        (("BG",), "referred", ("JURISDICTION_MONITORED",)),
        (("BG", "IR"), "blocked", ("JURISDICTION_BLOCKED", "JURISDICTION_MONITORED")),
    ],
)
def test_sanctioned_jurisdictions_are_blocked_and_high_risk_ones_referred(screener, countries, verdict, codes):
    result = screener.screen(Subject(names=("Li Wei",), countries=countries))

    assert (result.verdict, result.codes) == (verdict, codes)


def test_the_newest_version_that_is_not_of_a_later_day_counts(folder):
    newer = folder / "fatf-sample" / "2026-06-01"
    shutil.copytree(folder / FATF, newer)
    _rewrite(
        folder,
        "fatf-sample/2026-06-01",
        "jurisdictions.csv",
        b"country,status\nDE,increased_monitoring\n",
        version="2026-06-01",
        date="2026-06-01",
    )

    before = ScreeningLists.load(folder, on=dt.date(2026, 5, 31))
    after = ScreeningLists.load(folder, on=dt.date(2026, 6, 1))

    assert (before.status_of("DE"), before.status_of("KP")) == ("none", "call_for_action_countermeasures")
    assert (after.status_of("DE"), after.status_of("KP")) == ("increased_monitoring", "none")


def test_a_full_list_older_than_a_week_clears_nobody(folder, policy):
    path = folder / SDN / "list.json"
    for date, verdict in (("2026-11-18", "clear"), ("2026-11-17", "referred")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**manifest, "kind": "full", "date": date}), encoding="utf-8")
        result = Screener(policy, ScreeningLists.load(folder, on=TODAY)).screen(
            Subject(names=("Li Wei",), countries=("SG",))
        )

        assert result.verdict == verdict
        assert result.codes == (() if verdict == "clear" else ("LIST_STALE",))


def test_a_blocked_name_stays_blocked_by_a_stale_list(folder, policy):
    path = folder / SDN / "list.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**manifest, "kind": "full"}), encoding="utf-8")

    result = Screener(policy, ScreeningLists.load(folder, on=TODAY)).screen(
        Subject(names=("Osip Maratovich Valdrenko",), countries=("SG",))
    )

    assert result.verdict == "blocked"


def test_a_list_of_a_later_day_than_the_policy_clears_nobody(policy, lists):
    earlier = policy.__class__.of(dt.date(2025, 12, 1), policy.tables)

    result = Screener(earlier, lists).screen(Subject(names=("Li Wei",), countries=("SG",)))

    assert result.codes == ("LIST_STALE",)


@pytest.mark.parametrize("gone", ["ofac-sdn-sample", "fatf-sample"])
def test_without_names_or_without_jurisdictions_nobody_is_cleared(folder, gone):
    shutil.rmtree(folder / gone)

    with pytest.raises(ScreeningRefused, match="without it nobody can be cleared"):
        ScreeningLists.load(folder, on=TODAY)


def test_an_empty_list_of_names_is_no_list(folder):
    _rewrite(folder, SDN, "sdn.csv", b"")
    _rewrite(folder, SDN, "alt.csv", b"")

    with pytest.raises(ScreeningRefused, match="expected a list of names"):
        ScreeningLists.load(folder, on=TODAY)


def test_files_as_ofac_publishes_them_are_read(folder):
    """Its own quirks: a space after -0-, Latin-1, the DOS end-of-file mark, line breaks of DOS."""
    content = (
        _row(36, "AEROCARIBBEAN AIRLINES")
        + _row(173, "ANGLO-CARIBBEAN CO., LTD.")
        + "é".join(['174,"CAF', '"' + ",-0- " * 10 + "\r\n"]).encode("latin-1")
    )
    _rewrite(folder, SDN, "sdn.csv", content + b"\x1a", encoding="latin-1")
    _rewrite(folder, SDN, "alt.csv", b'36,12,"aka","AERO-CARIBBEAN",-0- \r\n\x1a', encoding="latin-1")

    names = [one.name for one in ScreeningLists.load(folder, on=TODAY).names]

    assert names == ["AEROCARIBBEAN AIRLINES", "ANGLO-CARIBBEAN CO., LTD.", "CAFé", "AERO-CARIBBEAN"]


@pytest.mark.parametrize(
    ("place", "name", "content", "sentence"),
    [
        (SDN, "sdn.csv", b'1,"A"\r\n', "line 1: expected 12 columns, found 2"),
        (SDN, "sdn.csv", _row("x", "SOME NAME"), "expected the number of an entry, found 'x'"),
        (SDN, "sdn.csv", _row(1, "SOME NAME") * 2, "found number 1 twice"),
        (SDN, "sdn.csv", _row(1, ""), "expected a name of 1 to 350 printable characters"),
        (SDN, "sdn.csv", _row(1, "-0- "), "expected a name of 1 to 350 printable characters"),
        (SDN, "sdn.csv", _row(1, "A" * 351), "expected a name of 1 to 350 printable characters"),
        (SDN, "sdn.csv", _row(1, "..."), "expected a name with letters or digits"),
        (SDN, "sdn.csv", b'1,"A" B' + b",-0- " * 10, "expected CSV, found a mistake"),
        (SDN, "sdn.csv", b"\xff\xfe", "expected utf-8, found other bytes at offset 0"),
        (SDN, "alt.csv", b'1,1,"aka","B",-0- \r\n', "expected an alias of an entry in sdn.csv, found one of 1"),
        (FATF, "jurisdictions.csv", b"KP,call_for_action_countermeasures\n", "expected the header country,status"),
        (FATF, "jurisdictions.csv", b"country,status\nXX,increased_monitoring\n", "expected an ISO 3166 code"),
        (FATF, "jurisdictions.csv", b"country,status\nKP,bad\n", "found 'bad'"),
        (FATF, "jurisdictions.csv", b"country,status\nKP,none\n", "found 'none'"),
        (FATF, "jurisdictions.csv", b"country,status\n" + b"KP,increased_monitoring\n" * 2, "found KP twice"),
    ],
)
def test_a_malformed_list_gets_one_sentence(folder, place, name, content, sentence):
    _rewrite(folder, place, name, content)

    with pytest.raises(ScreeningRefused) as refused:
        ScreeningLists.load(folder, on=TODAY)

    assert sentence in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": "partial"}, "kind: expected"),
        ({"date": "tomorrow"}, "expected a date as 2026-11-25"),
        ({"version": "2"}, "as its folders are named"),
        ({"files": {}}, "expected the files alt.csv, sdn.csv"),
        ({"files": {"../../secret.csv": "0" * 64}}, "files"),
        ({"note": "x"}, "note is not a known key"),
    ],
)
def test_a_malformed_manifest_gets_one_sentence(folder, change, sentence):
    path = folder / SDN / "list.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**manifest, **change}), encoding="utf-8")

    with pytest.raises(ScreeningRefused) as refused:
        ScreeningLists.load(folder, on=TODAY)

    assert sentence in str(refused.value)
    assert str(refused.value).isprintable()


def test_a_list_that_was_changed_after_it_was_checked_is_refused(folder):
    """One name less, and somebody would be cleared."""
    path = folder / SDN / "sdn.csv"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))

    with pytest.raises(ScreeningRefused, match=r"expected the SHA-256 that list.json states"):
        ScreeningLists.load(folder, on=TODAY)


def test_lists_are_read_within_bounds(folder, monkeypatch):
    monkeypatch.setattr(lists_module, "MAX_FILE_BYTES", 100)
    with pytest.raises(ScreeningRefused, match="expected at most 100 bytes"):
        ScreeningLists.load(folder, on=TODAY)
    monkeypatch.undo()

    monkeypatch.setattr(lists_module, "MAX_ENTRIES", 5)
    with pytest.raises(ScreeningRefused, match="line 6: expected at most 5 entries"):
        ScreeningLists.load(folder, on=TODAY)
    monkeypatch.undo()

    monkeypatch.setattr(lists_module, "MAX_ALIASES", 5)
    with pytest.raises(ScreeningRefused, match="line 6: expected at most 5 aliases"):
        ScreeningLists.load(folder, on=TODAY)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(ScreeningRefused, match="expected a folder of lists, found nothing"):
        ScreeningLists.load(tmp_path / "absent", on=TODAY)
