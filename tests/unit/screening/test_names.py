"""Names are found through typos, transliteration and order; common names are not mistaken for listed ones.

The figures are measured on lists made here with a fixed seed; a change of threshold that lets listed names through, or
drowns the reviewers in common ones, fails.
"""

import dataclasses
import itertools
import random

import pytest

from policies.screening.lists import ListedName
from policies.screening.names import ScreeningRefused, comparable
from policies.screening.screen import Screener, Subject


def _screened(screener, *names):
    return screener.screen(Subject(names=names, countries=("SG",)))


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        ("VALDRENKO, Osip Maratovich", ("valdrenko", "osip", "maratovich")),
        ("Валдренко Осип", ("valdrenko", "osip")),
        ("ＶＡＬＤＲＥＮＫＯ", ("valdrenko",)),
        ("Vаldrenko", ("valdrenko",)),  # the first a is Cyrillic
        ("Val\u200bdrenko", ("valdrenko",)),
        ("歐陽震龍", ("ou", "yang", "zhen", "long")),
        ("리철강", ("li", "cheol", "gang")),
        ("Íñigo  O'Montesquivel-Ordaz", ("inigo", "omontesquivel", "ordaz")),
        ("Granite Peak Metals Trading F.Z.E.", ("granite", "peak", "metals", "trading")),
        ("BLUE LOTUS PROCUREMENT CO., LTD.", ("blue", "lotus", "procurement")),
        ("Limited Company", ("limited", "company")),
        ("A/S 1995", ("a", "s", "1995")),
    ],
)
def test_a_name_in_any_script_becomes_plain_words(written, tokens):
    assert tokens == comparable(written).tokens


@pytest.mark.parametrize("name", ["", "   ", "---", "!?", "\u200b\u200e", "…"])
def test_a_name_with_nothing_to_compare_clears_nobody(screener, name):
    with pytest.raises(ScreeningRefused, match="expected a name with letters or digits"):
        comparable(name)


def test_a_name_longer_than_the_layout_allows_is_refused():
    with pytest.raises(ScreeningRefused, match="at most 350 characters, found 351"):
        comparable("a" * 351)


@pytest.mark.parametrize(
    "written",
    [
        "Osip Maratovich Valdrenko",
        "VALDRENKO OSIP MARATOVICH",
        "Osip Valdrenko Maratovich",
        "Осип Маратович Валдренко",
        "Osip Maratovič Valdrenko",
        "Osip Мaratovich Vаldrenko",
        "Ossip Maratovich Valdrenko",
        "Ouyang Zhen Long",
        "Zhenlong Ouyang",
        "欧阳震龙",
        "震龍 歐陽",
        "Papadimoulis Alexandros",
        "Αλέξανδρος Παπαδημούλης",
        "Zivorad Dragomirovic",
        "Jürgen Müllerstein",
        "Juergen Muellerstein",
        "Northern Amber Shipping Company Limited",
        "Shipping Northern Amber",
        "Nothern Amber Shiping LLC",
        "طارق جبار السمرخي",
        "Ri Chol-gang",
    ],
)
def test_a_listed_name_is_blocked_however_it_is_written(screener, written):
    assert _screened(screener, written).verdict == "blocked"


@pytest.mark.parametrize(
    "written",
    [
        "Osip Valdrenko",
        "Valdrenka Osip",
        "Alexander Papadimoulis",
        "Arkadiy Kharuzin",
        "Tariq Al Samarkhi",
        "Fluvial Banco Orinoco",
        "Obsidian Circle Foundation for Arts",
        "Sea Heron 9",
    ],
)
def test_a_name_that_comes_close_goes_to_two_people(screener, written):
    result = _screened(screener, written)

    assert result.verdict == "referred"
    assert result.codes


@pytest.mark.parametrize(
    "written", ["Ivan Petrov", "Li Wei", "John Smith", "Oriental Trading Company", "Blue Star Logistics Pte Ltd", "Sea"]
)
def test_an_ordinary_name_is_cleared(screener, written):
    assert _screened(screener, written).verdict == "clear"


def test_one_listed_name_among_many_is_found(screener):
    result = _screened(screener, "Harmless Homeware Ltd", "John Smith", "Lidia Zoryanskaya")

    assert result.verdict == "referred"
    assert {hit.screened_name for hit in result.hits} == {"Lidia Zoryanskaya"}


def test_a_hit_names_list_entry_and_score(screener):
    hit = _screened(screener, "Ossip Maratovich Valdrenko").hits[0]

    assert (hit.list_id, hit.entry, hit.listed_as) == ("ofac-sdn-sample", "900001", "VALDRENKO, Osip Maratovich")
    assert (str(hit.score), hit.form, hit.code) == ("98.03", "full", "NAME_SANCTIONED")


def test_the_same_subject_is_searched_for_once(policy, lists, monkeypatch):
    screener = Screener(policy, lists)
    subject = Subject(names=("Li Wei",), countries=("SG",))
    first = screener.screen(subject)
    monkeypatch.setattr(screener, "screened", lambda _: pytest.fail("searched again"))

    assert screener.screen(subject) is first


GIVEN = "Wei Fang Min Jing Lei Yan Ivan Maria Anna Sergey Elena Dmitri Mohammed Fatima Ali Ahmed Sara Omar John Mary"
GIVEN += " James Linda Robert Carlos Jose Luis Ana Juan Sofia Kim Minh Lan Hiro Yuki Raj Priya Amit Thomas Julia Peter"
FAMILY = "Wang Li Zhang Liu Chen Yang Huang Zhao Wu Zhou Ivanov Petrov Smirnov Kuznetsov Popov Khan Hussein Hassan"
FAMILY += " Ibrahim Smith Jones Brown Miller Garcia Martinez Lopez Hernandez Nguyen Tran Le Tanaka Suzuki Sato Singh"
FAMILY += " Kumar Sharma Schmidt Fischer Weber Rossi"
TRADE = "Trading Logistics Electronics Fashion Home Import Export Supply Technology Furniture"
PLACE = "Shenzhen Oriental Golden Blue Northern Pacific Lotus Star Granite Sunrise Delta Green Royal United Global"


def _common_names():
    people = [f"{given} {family}" for given, family in itertools.product(GIVEN.split(), FAMILY.split())]
    firms = [
        f"{place} {word} {trade} Co., Ltd."
        for place, word, trade in itertools.product(PLACE.split(), ("Star", "Peak", "Bridge"), TRADE.split())
    ]
    return people + [firm for firm in firms if not firm.startswith("Oriental Star Logistics")]  # that one is listed


def _typo(name, rng):
    """One letter of a longer word dropped, doubled, changed or swapped with its neighbour."""
    words = name.split()
    place = max(range(len(words)), key=lambda k: (len(words[k]), k))
    word = words[place]
    at = rng.randrange(1, len(word) - 1)
    words[place] = rng.choice(
        [
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + "x" + word[at + 1 :],
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        ]
    )
    return " ".join(words)


def test_common_names_are_hardly_ever_taken_for_listed_ones(screener):
    """Measured: of 2,049 made names none blocked and 3 firms referred, against the 55 names of the sample."""
    verdicts = [_screened(screener, name).verdict for name in _common_names()]

    assert len(verdicts) == 2049
    assert verdicts.count("blocked") == 0
    assert verdicts.count("referred") <= 0.005 * len(verdicts)


@pytest.fixture(scope="module")
def crowded(policy, lists):
    """A list of 2,000 people with common given names and made family names."""
    rng = random.Random(20261125)
    parts = [
        "ka",
        "zor",
        "bel",
        "dan",
        "vi",
        "tro",
        "mes",
        "qua",
        "lin",
        "der",
        "ush",
        "tam",
        "po",
        "gre",
        "shi",
        "nov",
    ]
    made = {
        f"{''.join(rng.sample(parts, rng.choice((2, 3)))).upper()}, {rng.choice(GIVEN.split())}"
        f"{rng.choice(('', ' ' + rng.choice(GIVEN.split())))}"
        for _ in range(2600)
    }
    names = sorted(made)[:2000]
    listed = tuple(ListedName("made", str(k), name, name, comparable(name)) for k, name in enumerate(names))
    return Screener(policy, dataclasses.replace(lists, names=listed))


def test_typos_and_order_in_a_large_list_are_found(crowded):
    """Measured: 100 % of 400 listed names with their words turned round, blocked; with a typo as well, 100 % found."""
    rng = random.Random(7)
    sample = rng.sample(crowded.lists.names, 400)
    turned = [" ".join(reversed(one.name.replace(",", "").split())) for one in sample]

    assert all(_screened(crowded, name).verdict == "blocked" for name in turned)
    found = sum(_screened(crowded, _typo(name, rng)).verdict != "clear" for name in turned)
    assert found >= 0.95 * len(turned)


def test_sharing_a_given_name_with_many_listed_people_stops_hardly_anybody(crowded):
    """Measured: of 1,600 common people none blocked and 23 referred."""
    people = _common_names()[:1600]
    verdicts = [_screened(crowded, name).verdict for name in people]

    assert verdicts.count("blocked") == 0
    assert verdicts.count("referred") <= 0.02 * len(people)


@pytest.fixture(scope="module")
def lookalikes(policy, lists):
    """The hardest list: 2,000 names that are common ones with two or three letters behind the family name."""
    rng = random.Random(20261125)
    endings = ("ov", "son", "ski", "ez", "han")
    made = {f"{rng.choice(FAMILY.split())}{rng.choice(endings)}, {rng.choice(GIVEN.split())}" for _ in range(4000)}
    listed = tuple(ListedName("made", str(k), name, name, comparable(name)) for k, name in enumerate(sorted(made)))
    return Screener(policy, dataclasses.replace(lists, names=listed[:2000]))


def test_not_even_lookalikes_block_a_common_name(lookalikes):
    """Measured: none of 1,600 blocked; 909 go to two people."""
    verdicts = [_screened(lookalikes, name).verdict for name in _common_names()[:1600]]

    assert verdicts.count("blocked") == 0
    assert verdicts.count("clear") >= 0.25 * len(verdicts)
