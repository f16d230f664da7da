"""All versions of a lending policy in one folder: read, checked whole, and asked by date.

The folder holds `<table>/<version>.json` with `<table>/<version>.cases.json` beside it, and `decisions/*.json` with
whole decisions. Nothing of a folder is used unless everything in it passes.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from policies.closed_json import IsoDate, parse_json_object
from policies.closed_model import ClosedModel, Model, parse_model, read_bounded, shown_path
from policies.decision_tables.cases import TableCases, failures
from policies.decision_tables.document import TableDocument
from policies.decision_tables.engine import Engine
from policies.decision_tables.errors import PolicyRefused
from policies.decision_tables.table import Table, build_table
from policies.lending import decide, offers
from policies.lending.cases import DecisionCase, differences, read_cases
from policies.lending.catalogue import CATALOGUE
from policies.lending.policy_set import PolicySet
from policies.lending.reasons import missing_policy_texts

DEFAULT_FOLDER = Path(__file__).resolve().parent / "tables"
"""The policy that is shipped: figures of the study, and samples that say so."""

DECISIONS = "decisions"
MAX_FILES = 2_000
MAX_REMEMBERED_DAYS = 64
_HINT = "see the shipped policy for a complete example"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a folder.

    Attributes:
        file: Relative to the folder; empty when it is about the folder.
        sentence: What was expected, what was found, what to do.
    """

    file: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.file}: {self.sentence}" if self.file else self.sentence


@dataclass(frozen=True)
class CheckReport:
    """What came of checking a folder.

    Attributes:
        problems: All of them; the folder may be used when there is none.
        versions: Table files read.
        table_cases: Cases of tables run.
        decision_cases: Whole decisions run.
    """

    problems: tuple[Problem, ...]
    versions: int
    table_cases: int
    decision_cases: int


@dataclass(frozen=True)
class LendingPolicy:
    """Every version of every table.

    Attributes:
        versions: Versions of each table, oldest first.
        cases: The whole decisions that were checked.
        where: The folder, for messages.
    """

    versions: Mapping[str, tuple[Table, ...]]
    cases: tuple[DecisionCase, ...] = ()
    where: str = "the policy"
    _sets: dict[dt.date, PolicySet] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, folder: Path = DEFAULT_FOLDER) -> LendingPolicy:
        """Read a folder and check it whole: schema, dates, texts of reasons, and all cases.

        Raises:
            PolicyRefused: The first thing that is wrong, and how many more there are.
        """
        policy, report = check_folder(folder)
        if policy is None:
            more = len(report.problems) - 1
            also = f" (and {more} more problem{'s' if more > 1 else ''}; `tallystick policy check` lists them)"
            raise PolicyRefused(f"{shown_path(folder)}: {report.problems[0]}{also if more else ''}")
        return policy

    def on(self, date: dt.date) -> PolicySet:
        """The tables in force on a day; the day is the caller's, in UTC.

        Raises:
            PolicyRefused: Some table has no version for that day.
        """
        if (known := self._sets.get(date)) is not None:
            return known
        tables = {}
        for name, versions in self.versions.items():
            in_force = [table for table in versions if table.effective_on(date)]
            if not in_force:
                raise PolicyRefused(
                    f"{self.where}: expected a version of table {name!r} in force on {date}, found none; add one, or"
                    " ask for a day that the policy covers."
                )
            tables[name] = in_force[0]
        made = PolicySet.of(date, tables)
        if len(self._sets) >= MAX_REMEMBERED_DAYS:
            self._sets.clear()
        self._sets[date] = made
        return made

    def days_of_change(self) -> tuple[dt.date, ...]:
        """First days of every combination of versions that covers all tables, ascending."""
        if not all(self.versions.values()):
            return ()
        ends = [table.effective_to for versions in self.versions.values() for table in versions]
        starts = [table.effective_from for versions in self.versions.values() for table in versions]
        days = sorted({*starts, *(day for day in ends if day is not None)})
        return tuple(
            day
            for day in days
            if all(any(table.effective_on(day) for table in versions) for versions in self.versions.values())
        )


def check_folder(folder: Path) -> tuple[LendingPolicy | None, CheckReport]:
    """Read and check a folder; never raises for what is in it.

    Returns:
        The policy, or None when there is any problem; and what was found.
    """
    check = _Check(folder)
    try:
        policy = check.run()
    except PolicyRefused as problem:
        check.problems.append(Problem("", str(problem)))
        policy = None
    report = CheckReport(tuple(check.problems), check.versions, check.table_cases, check.decision_cases)
    return (None if check.problems else policy), report


class _Check:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[Problem] = []
        self.versions = self.table_cases = self.decision_cases = 0
        self.broken = False  # so that whole decisions cannot be run; failed cases of tables do not keep them from it

    def run(self) -> LendingPolicy:
        names = self._names()
        tables = {name: self._tables(name) for name in CATALOGUE if name in names}
        for name in CATALOGUE:
            if not tables.get(name):
                tables[name] = ()
                if not any(problem.file.startswith(f"{name}/") for problem in self.problems):
                    self._add(name, f"expected a folder with versions of the table {name!r}, found none; add one.")
        cases = self._decision_cases() if DECISIONS in names else ()
        policy = LendingPolicy(MappingProxyType(tables), cases, shown_path(self.folder))
        if not self.broken:
            self._whole(policy)
        return policy

    def _add(self, file: str, sentence: str, *, broken: bool = True) -> None:
        self.problems.append(Problem(file, sentence))
        self.broken = self.broken or broken

    def _names(self) -> set[str]:
        entries = policy_files(self.folder)
        for path in entries:
            parts = path.relative_to(self.folder).parts
            if len(parts) != 2 or (parts[0] not in CATALOGUE and parts[0] != DECISIONS):
                self._add(
                    "/".join(parts),
                    f"expected files in a folder named for a table or {DECISIONS!r}, found this one; move it away.",
                )
        return {path.relative_to(self.folder).parts[0] for path in entries}

    def _tables(self, name: str) -> tuple[Table, ...]:
        found = []
        for path in sorted((self.folder / name).iterdir()):
            place = f"{name}/{path.name}"
            if path.name.startswith("."):
                continue
            if path.name.endswith(".cases.json"):
                if not path.with_name(path.name.removesuffix(".cases.json") + ".json").exists():
                    self._add(place, "expected a table beside these cases, found none; add it or remove the cases.")
                continue
            if not path.name.endswith(".json"):
                self._add(place, "expected <version>.json or <version>.cases.json, found this; move it away.")
                continue
            try:
                found.append(self._table(name, path))
            except PolicyRefused as problem:
                self._add(place, _without(str(problem), path))
        found.sort(key=lambda table: table.effective_from)
        for earlier, later in itertools.pairwise(found):
            self._dates(name, earlier, later)
        return tuple(found)

    def _table(self, name: str, path: Path) -> Table:
        self.versions += 1
        document = _parsed(TableDocument, path)
        if path.stem != document.version:
            raise PolicyRefused(
                f"expected the version {path.stem!r}, as the file is named, found {document.version!r}."
            )
        table = build_table(document, CATALOGUE[name], shown_path(path))
        beside = path.with_name(f"{path.stem}.cases.json")
        if not beside.exists():
            raise PolicyRefused("expected cases beside the table, found none; add a file of cases.")
        cases = _parsed(TableCases, beside)
        self.table_cases += len(cases.cases)
        engine = Engine({name: table})
        for sentence in failures(cases, table, lambda facts: engine.matching(name, facts)):
            self._add(f"{name}/{beside.name}", sentence, broken=False)
        return table

    def _dates(self, name: str, earlier: Table, later: Table) -> None:
        place = f"{name}/{later.version}.json"
        until = earlier.effective_to
        if until is None or until > later.effective_from:
            self._add(
                place,
                f"expected version {earlier.version} to end before {later.version} begins on {later.effective_from},"
                f" found that it ends {'never' if until is None else until}; set its effective_to.",
            )
        elif until < later.effective_from:
            self._add(
                place,
                f"expected no gap between versions, found none in force from {until} to {later.effective_from};"
                " move one of the dates.",
            )

    def _decision_cases(self) -> tuple[DecisionCase, ...]:
        found: list[DecisionCase] = []
        for path in sorted((self.folder / DECISIONS).iterdir()):
            if path.name.startswith("."):
                continue
            try:
                found += read_cases(path)
            except PolicyRefused as problem:
                self._add(f"{DECISIONS}/{path.name}", _without(str(problem), path))
        seen: set[str] = set()
        for case in found:
            if case.id in seen:
                self._add(DECISIONS, f"expected every case id once, found {case.id!r} twice; rename one.")
            seen.add(case.id)
        return tuple(found)

    def _whole(self, policy: LendingPolicy) -> None:
        days = policy.days_of_change()
        if not days:
            self._add("", "expected a day on which every table is in force, found none; correct the dates.")
        for day in days:
            chosen = policy.on(day)
            for code in missing_policy_texts(chosen, _codes_of(chosen)):
                self._add(
                    f"policy_reason/{chosen.tables['policy_reason'].version}.json",
                    f"expected a text for the reason {code} that another table gives, found none; add a row.",
                )
        for case in policy.cases:
            self.decision_cases += 1
            try:
                sentences = differences(case, case.decided(policy.on(case.on)))
            except PolicyRefused as problem:
                sentences = [f"case {case.id}: {problem}"]
            for sentence in sentences:
                self._add(DECISIONS, sentence)


def policy_files(folder: Path) -> list[Path]:
    """Every file below a policy folder that is not hidden, sorted.

    Raises:
        PolicyRefused: No folder, unreadable, or too many files.
    """
    try:
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing"
            raise PolicyRefused(
                f"{shown_path(folder)}: expected the folder of a lending policy, found {found}; correct the path."
            )
        files = [
            path
            for path in itertools.islice(folder.rglob("*"), MAX_FILES + 1)
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ]
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "the path is not valid"
        raise PolicyRefused(f"{shown_path(folder)}: cannot be read ({reason}); check its permissions.") from None
    if len(files) > MAX_FILES:
        raise PolicyRefused(f"{shown_path(folder)}: expected at most {MAX_FILES} files, found more; archive some.")
    return sorted(files)


class PolicyArchive(ClosedModel):
    """One policy set with all its tables, to be kept as long as the decisions that it made."""

    format: Literal["tallystick-policy-archive/1"]
    date: IsoDate
    tables: tuple[TableDocument, ...]


def archived(policy: PolicySet) -> bytes:
    """A policy set as bytes; store it once under `policy.sha256`, so that old decisions stay explained."""
    tables = [table.document.model_dump(mode="json", by_alias=True) for _, table in sorted(policy.tables.items())]
    content = {"format": "tallystick-policy-archive/1", "date": policy.date.isoformat(), "tables": tables}
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def from_archive(content: bytes) -> PolicySet:
    """A policy set as it was archived.

    Raises:
        PolicyRefused: Not such an archive, or one whose tables do not pass their checks.
    """
    where = "the archived policy"
    archive = parse_model(
        PolicyArchive, parse_json_object(content, where, PolicyRefused), where, PolicyRefused, "use the archive as kept"
    )
    tables = {}
    for document in archive.tables:
        if document.id not in CATALOGUE:
            raise PolicyRefused(f"{where}: expected the tables of a lending policy, found {document.id!r}.")
        tables[document.id] = build_table(document, CATALOGUE[document.id], where)
    if tables.keys() != CATALOGUE.keys():
        raise PolicyRefused(f"{where}: expected every table of a lending policy, found {len(tables)} of them.")
    return PolicySet.of(archive.date, tables)


def _parsed(model: type[Model], path: Path) -> Model:
    where = shown_path(path)
    data = parse_json_object(read_bounded(path, PolicyRefused), where, PolicyRefused)
    return parse_model(model, data, where, PolicyRefused, _HINT)


def _without(sentence: str, path: Path) -> str:
    """The sentence without the path in front: the report names the file in a column of its own."""
    return sentence.removeprefix(f"{shown_path(path)}: ")


def _codes_of(policy: PolicySet) -> set[str]:
    """Every reason code that a table or the code may give, apart from score reasons with texts of their own."""
    found = {*decide.CODES, *offers.CODES}
    for name in ("eligibility", "degraded", "appetite", "authority", "jurisdiction", "name_match", "customer_risk"):
        found |= {row.text("code") for row in policy.tables[name].rows.values()}
    return found
