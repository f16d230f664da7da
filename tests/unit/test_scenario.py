"""Scenario files: what they mean, and one sentence for each way in which one can be wrong."""

import re
from pathlib import Path

import pytest

import simulations
from simulations import scenario as module
from simulations.population import synthetic_population
from simulations.scenario import ScenarioRefused, load_rows, load_scenario, planned_faults

GOOD = """
format = "tallystick-scenario/1"
name = "three"
seed = 5

[data]
set = "synthetic"
rows = 600

[members]
count = 3

[training]
method = "fedavg"
rounds = 4
"""


@pytest.fixture
def scenario(tmp_path):
    """Reads a scenario of the given text."""

    def read(text):
        path = tmp_path / "scenario.toml"
        path.write_text(text)
        return load_scenario(path)

    return read


def test_scenario_deals_every_row_to_the_members_it_names(scenario):
    asked = scenario(GOOD)
    data_set, rows = load_rows(asked)
    assert sorted(rows) == ["bank-01", "bank-02", "bank-03"]
    ids = [identifier for frame in rows.values() for identifier in frame[data_set.id_column]]
    assert len(ids) == len(set(ids)) == 600


def test_same_seed_gives_the_same_rows_hold_out_and_method_seed(scenario):
    first, second = scenario(GOOD), scenario(GOOD)
    assert load_rows(first)[1]["bank-02"].equals(load_rows(second)[1]["bank-02"])
    assert first.holdout_key == second.holdout_key
    assert first.method_settings.seed == 5
    other = scenario(GOOD.replace("seed = 5", "seed = 6"))
    assert other.holdout_key != first.holdout_key
    assert not load_rows(other)[1]["bank-02"].equals(load_rows(first)[1]["bank-02"])


def test_named_shares_decide_the_sizes(scenario):
    text = GOOD.replace("count = 3", "shares = { big = 0.7, mid = 0.2, low = 0.1 }")
    _, rows = load_rows(scenario(text))
    assert {member: len(frame) for member, frame in rows.items()} == {"big": 420, "mid": 120, "low": 60}


def test_drop_out_by_round_is_the_sum_after_the_binning_and_lasts_as_many_sums_as_said(scenario):
    text = GOOD + '[[dropouts]]\nmember = "bank-02"\nround = 2\nphase = "contribute"\nsums = 2\n'
    now = {"k": 0}
    fault = planned_faults(scenario(text), lambda: now["k"])
    seen = {}
    for now["k"] in range(6):
        seen[now["k"]] = [fault("bank-02", "contribute", 0), fault("bank-02", "contribute", 1)]
        assert fault("bank-01", "contribute", 0) is None
        assert fault("bank-02", "shares", 0) is None
    assert [k for k, kinds in seen.items() if kinds == ["lost", "lost"]] == [2, 3]
    assert all(kinds == [None, None] for k, kinds in seen.items() if k not in {2, 3})


def test_late_and_duplicate_messages_befall_the_first_message_of_a_sum_alone(scenario):
    text = GOOD + '[[dropouts]]\nmember = "bank-02"\nstep = 0\nphase = "shares"\nkind = "late"\n'
    fault = planned_faults(scenario(text), lambda: 0)
    assert [fault("bank-02", "shares", attempt) for attempt in range(3)] == ["late", None, None]


def test_random_drop_outs_come_at_their_rate_and_the_same_for_a_seed(scenario):
    text = GOOD + "[random_dropouts]\nrate = 0.25\n"
    now = {"k": 0}

    def drawn():
        fault = planned_faults(scenario(text), lambda: now["k"])
        return [fault(f"bank-{n:02d}", "contribute", 0) for now["k"] in range(200) for n in (1, 2, 3)]

    first = drawn()
    assert first == drawn()
    assert 100 < first.count("lost") < 200


def test_privacy_floor_takes_the_smallest_safe_bounds(scenario):
    asked = scenario(GOOD.replace("count = 3", "count = 8") + "[privacy]\nallow_roster_change = true\n")
    terms = asked.privacy.terms(8)
    assert (terms.max_colluders, terms.min_survivors, terms.shamir_threshold) == (1, 6, 5)
    assert terms.allow_roster_change


def _without(text, line):
    assert line in text
    return text.replace(line, "")


DROP_OUT = '[[dropouts]]\nmember = "bank-01"\nphase = "seeds"\n'
MALFORMED = {
    "not TOML": (GOOD + "[members", "expected TOML"),
    "not text": (None, "UTF-8"),
    "empty": ("", "missing"),
    "another format": (GOOD.replace("scenario/1", "scenario/9"), "format"),
    "an unknown key": (GOOD + "colour = 3\n", "colour is not a known key"),
    "an unknown table": (GOOD + "[network]\nspeed = 1\n", "network is not a known key"),
    "a name with spaces": (GOOD.replace('"three"', '"the three"'), "name"),
    "a name that leaves the folder": (GOOD.replace('"three"', '"../three"'), "name"),
    "a negative seed": (GOOD.replace("seed = 5", "seed = -5"), "seed: expected at least 0"),
    "a seed in quotes": (GOOD.replace("seed = 5", 'seed = "5"'), "seed: expected a whole number"),
    "an unknown data set": (GOOD.replace('"synthetic"', '"titanic"'), "expected one of gmsc, synthetic"),
    "no data set": (_without(GOOD, 'set = "synthetic"'), "data.set is missing"),
    "too few rows": (GOOD.replace("rows = 600", "rows = 6"), "data.rows: expected at least 100"),
    "two members": (GOOD.replace("count = 3", "count = 2"), "members.count: expected at least 3"),
    "a crowd": (GOOD.replace("count = 3", "count = 2000"), "members.count: expected at most 200"),
    "members twice": (
        GOOD.replace("count = 3", "count = 3\nshares = { aa = 0.5, bb = 0.3, cc = 0.2 }"),
        "either count or shares",
    ),
    "no members": (_without(GOOD, "count = 3"), "either count or shares"),
    "shares beyond one": (
        GOOD.replace("count = 3", "shares = { aa = 0.5, bb = 0.5, cc = 0.2 }"),
        "shares that add up to 1",
    ),
    "a negative share": (GOOD.replace("count = 3", "shares = { aa = 1.5, bb = -0.7, cc = 0.2 }"), "members.shares"),
    "a member name in capitals": (GOOD.replace("count = 3", "shares = { AA = 0.5, bb = 0.3, cc = 0.2 }"), "shares"),
    "two shares": (GOOD.replace("count = 3", "shares = { aa = 0.5, bb = 0.5 }"), "expected 3 to 200 members"),
    "skew without a column": (GOOD.replace("count = 3", "count = 3\nskew_strength = 0.5"), "expected a skew_column"),
    "skew beyond one": (
        GOOD.replace("count = 3", 'count = 3\nskew_column = "age"\nskew_strength = 1.5'),
        "skew_strength: expected at most 1",
    ),
    "an unknown method": (GOOD.replace('"fedavg"', '"magic"'), "training.method"),
    "no rounds": (GOOD.replace("rounds = 4", "rounds = 0"), "training.rounds"),
    "half a round": (GOOD.replace("rounds = 4", "rounds = 2.5"), "training.rounds"),
    "an endless learning rate": (GOOD + "learning_rate = inf\n", "learning_rate"),
    "a second seed": (GOOD + "seed = 1\n", "the one seed at the top"),
    "newton on a neural tower": (
        GOOD.replace('"fedavg"', '"newton"')
        + '[model]\ntower = "neural"\nhidden_units = [8]\nridge = 1.0\nsmoothness = 0.0\n',
        "found newton",
    ),
    "a neural tower without layers": (
        GOOD + '[model]\ntower = "neural"\nridge = 1.0\nsmoothness = 0.0\n',
        "hidden",
    ),
    "too many colluders": (GOOD + "[privacy]\nmax_colluders = 2\n", "max_colluders: expected at most 1"),
    "a drop-out of nobody": (GOOD + DROP_OUT.replace("01", "09") + "round = 1\n", "expected one of the 3 members"),
    "a drop-out at no time": (GOOD + DROP_OUT, "either round or step"),
    "a drop-out at two times": (GOOD + DROP_OUT + "round = 1\nstep = 1\n", "either round or step"),
    "a drop-out after the end": (GOOD + DROP_OUT + "round = 5\n", "dropouts[1].round: expected at most 4"),
    "a drop-out in no phase": (GOOD + DROP_OUT.replace("seeds", "lunch") + "round = 1\n", "phase"),
    "a drop-out of no kind": (GOOD + DROP_OUT + 'round = 1\nkind = "tired"\n', "kind"),
    "drop-outs as a number": (GOOD.replace("seed = 5", "seed = 5\ndropouts = 3"), "dropouts"),
    "everybody drops out": (GOOD + "[random_dropouts]\nrate = 1.0\n", "rate: expected less than 1"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_scenario_gets_one_sentence(case, tmp_path):
    text, expected = MALFORMED[case]
    path = tmp_path / "scenario.toml"
    path.write_bytes(b"name = '\xff\xfe'" if text is None else text.encode())
    with pytest.raises(ScenarioRefused) as refused:
        load_scenario(path)
    sentence = str(refused.value)
    assert expected in sentence
    assert sentence.startswith(str(path))
    assert re.fullmatch(r"[^\n]{20,400}\.", sentence)


def test_scenario_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ScenarioRefused, match=r"nothing-here\.toml: expected a file, found nothing"):
        load_scenario(tmp_path / "nothing-here.toml")


def test_more_rows_than_the_data_set_has_are_refused(scenario, monkeypatch):
    monkeypatch.setattr(module, "load_data_set", lambda _name: synthetic_population(500, 1))
    with pytest.raises(ScenarioRefused, match="expected at most the 500 rows of german, found 600"):
        load_rows(scenario(GOOD.replace('"synthetic"', '"german"')))


def test_committed_scenarios_can_be_read():
    folder = Path(simulations.__file__).parent / "scenarios"
    names = {load_scenario(path).name for path in sorted(folder.glob("*.toml"))}
    assert names == {"small", "dropouts", "fifty-banks-newton", "fifty-banks-fedavg"}
