"""Screen a party: every name and jurisdiction of it against the lists, and what the policy makes of what is found.

The result is one of three types. `Cleared` exists only when every list was fresh enough to clear by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import Annotated, Literal

from pydantic import Field
from rapidfuzz import fuzz, process

from policies.closed_model import ClosedModel
from policies.decision_tables.cells import OneOf, Within
from policies.lending.catalogue import VERDICTS
from policies.lending.policy_set import Inquiry, PolicySet
from policies.lending.types import Code, TraceRow, Verdict
from policies.screening.lists import ListedName, ListVersion, ScreeningLists
from policies.screening.names import MAX_NAME_CHARACTERS, ComparableName, comparable

STALE = "LIST_STALE"
MAX_HITS = 20
"""Most hits that a result carries, severest first; its verdict is over all of them."""
MIN_LETTERS_FOR_A_TYPO = 6
"""A single word shorter than that is compared exactly: among four letters one other letter is another name."""
MAX_REMEMBERED = 4096
"""Subjects whose result is kept: 20 ms a name are saved, with 35,000 listed ones."""

Form = Literal["full", "partial"]
Written = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]


class Subject(ClosedModel):
    """Who is screened."""

    names: Annotated[tuple[Written, ...], Field(min_length=1, max_length=50)]
    """The legal name, trading names, owners and directors, in any script."""
    countries: Annotated[tuple[str, ...], Field(min_length=1, max_length=50)]
    """ISO 3166 alpha-2 codes of registration, of residence of owners, of destination of goods."""


class NameHit(ClosedModel):
    """A name that is close to a listed one. Personal data: not for the ledger."""

    hit: Literal["name"] = "name"
    verdict: Verdict
    code: Code
    list_id: str
    entry: str
    listed_as: str
    listed_name: str
    screened_name: str
    form: Form
    score: Decimal


class JurisdictionHit(ClosedModel):
    """A jurisdiction that is on a list, or that nobody knows."""

    hit: Literal["jurisdiction"] = "jurisdiction"
    verdict: Verdict
    code: Code
    country: str
    status: str


class StaleList(ClosedModel):
    """A list that is too old to clear anybody."""

    hit: Literal["stale_list"] = "stale_list"
    verdict: Literal["referred"] = "referred"
    code: Code = STALE
    list_id: str
    version: str
    age_days: int


Hit = Annotated[NameHit | JurisdictionHit | StaleList, Field(discriminator="hit")]


class Cleared(ClosedModel):
    """Nothing was found on lists that are fresh enough."""

    verdict: Literal["clear"] = "clear"
    lists: tuple[ListVersion, ...]
    trace: tuple[TraceRow, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        """None: there is nothing to say."""
        return ()


class _Found(ClosedModel):
    hits: Annotated[tuple[Hit, ...], Field(min_length=1, max_length=MAX_HITS)]
    lists: tuple[ListVersion, ...]
    trace: tuple[TraceRow, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        """Why, each code once: `Checks.screening_codes`."""
        return tuple(dict.fromkeys(hit.code for hit in self.hits))


class PossibleMatch(_Found):
    """Two people look at it."""

    verdict: Literal["referred"] = "referred"


class Blocked(_Found):
    """Sanctioned."""

    verdict: Literal["blocked"] = "blocked"


Screening = Annotated[Cleared | PossibleMatch | Blocked, Field(discriminator="verdict")]


@dataclass(frozen=True)
class _Close:
    listed: ListedName
    form: Form
    score: Decimal
    tokens: int


class Screener:
    """Lists prepared for searching under one policy set; make one per day and list version, and keep it."""

    def __init__(self, policy: PolicySet, lists: ScreeningLists) -> None:
        self.policy = policy
        self.lists = lists
        self._sorted = [one.comparable.sorted_text for one in lists.names]
        self._compact = [one.comparable.compact for one in lists.names]
        self._having: dict[str, list[int]] = {}
        for index, one in enumerate(lists.names):
            for word in set(one.comparable.tokens):
                self._having.setdefault(word, []).append(index)
        self._vocabulary = sorted(self._having)
        self._remembered: dict[Subject, Cleared | PossibleMatch | Blocked] = {}
        self._least: dict[Form, float] = {"full": _least(policy, "full"), "partial": _least(policy, "partial")}

    def screen(self, subject: Subject) -> Cleared | PossibleMatch | Blocked:
        """`screened`, remembered: a party that asks again is not searched for again."""
        if (known := self._remembered.get(subject)) is None:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            known = self._remembered[subject] = self.screened(subject)
        return known

    def screened(self, subject: Subject) -> Cleared | PossibleMatch | Blocked:
        """Screen a party.

        Args:
            subject: Its names and countries.

        Raises:
            ScreeningRefused: A name with nothing in it to compare.
            PolicyRefused: The policy's tables have no answer.
        """
        inquiry = Inquiry(self.policy)
        hits: list[NameHit | JurisdictionHit | StaleList] = []
        for country in dict.fromkeys(subject.countries):
            hits += _jurisdiction(inquiry, self.lists, country)
        for name in dict.fromkeys(subject.names):
            for close in self._close(comparable(name)):
                hits += _name(inquiry, name, close)
        for version in self.lists.versions:
            hits += _stale(inquiry, version)
        if not hits:
            return Cleared(lists=self.lists.versions, trace=inquiry.trace)
        hits.sort(key=lambda hit: -VERDICTS.index(hit.verdict))
        found = Blocked if hits[0].verdict == "blocked" else PossibleMatch
        return found(hits=tuple(hits[:MAX_HITS]), lists=self.lists.versions, trace=inquiry.trace)

    def _close(self, name: ComparableName) -> Iterator[_Close]:
        """Listed names that the table could say anything about, each once, with its highest score."""
        best: dict[int, float] = {}
        found = self._search(name.sorted_text, self._sorted, self._least["full"])
        for rotation in name.rotations():
            found += self._search(rotation, self._compact, self._least["full"])
        for index, score in found:
            best[index] = max(score, best.get(index, 0.0))
        for index, score in sorted(best.items()):
            yield self._as_close(name, index, "full", score)
        for index, score in self._partial(name):
            if index not in best:
                yield self._as_close(name, index, "partial", score)

    def _partial(self, name: ComparableName) -> list[tuple[int, float]]:
        """Listed names whose words are all in this one, or the other way round, with the score of the worst word."""
        words = list(dict.fromkeys(name.tokens))
        listed_words: dict[int, set[str]] = {}
        own_words: dict[int, set[str]] = {}
        worst: dict[int, float] = {}
        for word in words:
            least = self._least["partial"] if len(word) >= MIN_LETTERS_FOR_A_TYPO else 100.0
            for place, score in self._search(word, self._vocabulary, least):
                listed_word = self._vocabulary[place]
                for index in self._having[listed_word]:
                    listed_words.setdefault(index, set()).add(listed_word)
                    own_words.setdefault(index, set()).add(word)
                    worst[index] = min(score, worst.get(index, 100.0))
        found = []
        for index, score in worst.items():
            size = len(set(self.lists.names[index].comparable.tokens))
            whole = len(listed_words[index]) == size or len(own_words[index]) == len(words)
            if whole and size != len(words):
                found.append((index, score))
        return sorted(found)

    def _search(self, text: str, choices: list[str], least: float) -> list[tuple[int, float]]:
        """Index and score of every choice that is at least that close."""
        found = process.extract(text, choices, scorer=fuzz.ratio, processor=None, limit=None, score_cutoff=least)
        return [(index, score) for _, score, index in found]

    def _as_close(self, name: ComparableName, index: int, form: Form, score: float) -> _Close:
        listed = self.lists.names[index]
        tokens = min(len(name.tokens), len(listed.comparable.tokens))
        # Rounded down to two places: a score just below a threshold stays below it.
        return _Close(listed, form, Decimal(score).quantize(Decimal("0.01"), ROUND_DOWN), tokens)


def _least(policy: PolicySet, form: Form) -> float:
    """The lowest score for which the table says anything but clear; the search goes no lower."""
    least = Decimal(100)
    for row in policy.tables["name_match"].rows.values():
        applies = row.conditions["form"]
        if row.text("verdict") == "clear" or (isinstance(applies, OneOf) and form not in applies.values):
            continue
        score = row.conditions["score"]
        least = min(least, score.low if isinstance(score, Within) and score.low is not None else Decimal(0))
    return float(least)


def _jurisdiction(inquiry: Inquiry, lists: ScreeningLists, country: str) -> list[JurisdictionHit]:
    status = lists.status_of(country)
    row = inquiry.one("jurisdiction", status=status)
    if row.text("verdict") == "clear":
        return []
    # A country that is no code may be anything; it is not repeated at length.
    fields = {"verdict": row.text("verdict"), "code": row.text("code"), "country": country[:64], "status": status}
    return [JurisdictionHit.model_validate(fields)]


def _name(inquiry: Inquiry, written: str, close: _Close) -> list[NameHit]:
    row = inquiry.one("name_match", form=close.form, score=close.score, tokens=Decimal(close.tokens))
    if row.text("verdict") == "clear":
        return []
    fields = {
        "verdict": row.text("verdict"),
        "code": row.text("code"),
        "list_id": close.listed.list_id,
        "entry": close.listed.entry,
        "listed_as": close.listed.primary,
        "listed_name": close.listed.name,
        "screened_name": written,
        "form": close.form,
        "score": close.score,
    }
    return [NameHit.model_validate(fields)]


def _stale(inquiry: Inquiry, version: ListVersion) -> list[StaleList]:
    age = (inquiry.policy.date - version.date).days
    if age >= 0 and inquiry.one("list_age", list_kind=version.kind, age_days=Decimal(age)).flag("current"):
        return []
    return [StaleList(list_id=version.id, version=version.version, age_days=age)]
