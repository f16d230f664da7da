"""List files: who issued them, of which day, what kind, and their entries within bounds.

`<folder>/<list>/<version>/list.json` says what the data files beside it are and their SHA-256. Two layouts are read:

- `ofac-sdn`: `sdn.csv` and `alt.csv` as OFAC publishes them (12 and 5 columns, no header, `-0-` for nothing);
- `jurisdictions`: `jurisdictions.csv` with a header `country,status`, ISO 3166 codes and the statuses that the policy
  knows, made from what the FATF publishes three times a year.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import pycountry
from pydantic import Field

from policies.closed_json import IsoDate, read_json_object
from policies.closed_model import HEX_32_BYTES, HYPHENATED, ONE_LINE, ClosedModel, parse_model, shown, shown_path
from policies.decision_tables.document import VERSION
from policies.lending.catalogue import JURISDICTION_STATUSES
from policies.screening.names import MAX_NAME_CHARACTERS, ComparableName, ScreeningRefused, comparable

DEFAULT_FOLDER = Path(__file__).resolve().parent / "lists"
"""The shipped lists: small, dated samples, and their `list.json` says so."""

MAX_FILE_BYTES = 64 << 20
MAX_ENTRIES = 200_000
MAX_ALIASES = 400_000
MAX_LISTS = 50
_HINT = "see the shipped lists"
_NOTHING = "-0-"
_SDN_COLUMNS, _ALT_COLUMNS = 12, 5
_ON_A_LIST = frozenset(JURISDICTION_STATUSES[1:-1])

Text = Annotated[str, Field(min_length=1, max_length=1000, pattern=ONE_LINE)]


class ListManifest(ClosedModel):
    """`list.json`."""

    format: Literal["tallystick-list/1"]
    id: Annotated[str, Field(pattern=HYPHENATED)]
    version: Annotated[str, Field(pattern=VERSION)]
    date: IsoDate
    """The day whose state the list is in."""
    kind: Literal["full", "sample"]
    layout: Literal["ofac-sdn", "jurisdictions"]
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    source: Text
    description: Text
    files: dict[Literal["sdn.csv", "alt.csv", "jurisdictions.csv"], Annotated[str, Field(pattern=HEX_32_BYTES)]]


class ListVersion(ClosedModel):
    """Which list was looked at: what a screening keeps."""

    id: str
    version: str
    date: IsoDate
    kind: Literal["full", "sample"]
    sha256: str
    """Of the manifest's names and hashes of files."""


@dataclass(frozen=True)
class ListedName:
    """One name of a sanctioned party.

    Attributes:
        list_id: The list.
        entry: Its number there.
        primary: The name under which the party is listed.
        name: This name: the primary one or an alias.
        comparable: The same, made comparable.
    """

    list_id: str
    entry: str
    primary: str
    name: str
    comparable: ComparableName


@dataclass(frozen=True)
class ScreeningLists:
    """The newest version of every list of a folder, as of a day.

    Attributes:
        versions: What they are, sorted by id.
        names: Every listed name.
        jurisdictions: Severest status by ISO 3166 alpha-2 code; only those on a list.
    """

    versions: tuple[ListVersion, ...]
    names: tuple[ListedName, ...]
    jurisdictions: Mapping[str, str]

    @classmethod
    def load(cls, folder: Path = DEFAULT_FOLDER, *, on: dt.date) -> ScreeningLists:
        """Read the newest version of each list that is not of a later day.

        Args:
            folder: Folder of lists.
            on: The day.

        Raises:
            ScreeningRefused: No list of names or of jurisdictions, or a list that is not as its manifest says.
        """
        newest: dict[str, tuple[ListManifest, Path]] = {}
        for path in _manifests(folder):
            manifest = _manifest(path)
            known = newest.get(manifest.id)
            if manifest.date <= on and (known is None or _age(known[0]) < _age(manifest)):
                newest[manifest.id] = (manifest, path.parent)
        names: list[ListedName] = []
        jurisdictions: dict[str, str] = {}
        for _, (manifest, place) in sorted(newest.items()):
            if manifest.layout == "ofac-sdn":
                names += _sdn(manifest, place)
            else:
                for country, status in _jurisdictions(manifest, place):
                    known_status = jurisdictions.get(country, status)
                    jurisdictions[country] = max(known_status, status, key=JURISDICTION_STATUSES.index)
        for what, found in (("names", names), ("jurisdictions", jurisdictions)):
            if not found:
                raise ScreeningRefused(
                    f"{shown_path(folder)}: expected a list of {what} of {on} or earlier, found none; add one:"
                    " without it nobody can be cleared."
                )
        versions = tuple(_version(manifest) for _, (manifest, _) in sorted(newest.items()))
        return cls(versions, tuple(names), MappingProxyType(jurisdictions))

    def status_of(self, country: str) -> str:
        """Status of a jurisdiction: on a list, on none, or no country code at all."""
        if not is_country(country):
            return "unknown"
        return self.jurisdictions.get(country, "none")


@lru_cache(maxsize=1)
def _countries() -> frozenset[str]:
    return frozenset(country.alpha_2 for country in pycountry.countries)


def is_country(code: str) -> bool:
    """Whether it is an ISO 3166 alpha-2 code."""
    return code in _countries()


def _age(manifest: ListManifest) -> tuple[dt.date, str]:
    return manifest.date, manifest.version


def _version(manifest: ListManifest) -> ListVersion:
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(manifest.files.items()))
    return ListVersion(
        id=manifest.id,
        version=manifest.version,
        date=manifest.date,
        kind=manifest.kind,
        sha256=hashlib.sha256(f"{manifest.id} {manifest.version}\n{text}".encode()).hexdigest(),
    )


def _manifests(folder: Path) -> list[Path]:
    try:
        if not folder.is_dir():
            raise ScreeningRefused(
                f"{shown_path(folder)}: expected a folder of lists, found "
                f"{'a file' if folder.exists() else 'nothing'}; correct the path."
            )
        found = sorted(folder.glob("*/*/list.json"))
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "the path is not valid"
        raise ScreeningRefused(f"{shown_path(folder)}: cannot be read ({reason}); check its permissions.") from None
    if len({path.parent.parent for path in found}) > MAX_LISTS:
        raise ScreeningRefused(f"{shown_path(folder)}: expected at most {MAX_LISTS} lists, found more; remove some.")
    return found


def _manifest(path: Path) -> ListManifest:
    where = shown_path(path)
    manifest = parse_model(ListManifest, read_json_object(path, ScreeningRefused), where, ScreeningRefused, _HINT)
    if (manifest.id, manifest.version) != (path.parent.parent.name, path.parent.name):
        raise ScreeningRefused(
            f"{where}: expected list {path.parent.parent.name!r}, version {path.parent.name!r}, as its folders are"
            f" named, found {manifest.id!r}, version {manifest.version!r}; correct one of them."
        )
    expected = {"sdn.csv", "alt.csv"} if manifest.layout == "ofac-sdn" else {"jurisdictions.csv"}
    if manifest.files.keys() != expected:
        raise ScreeningRefused(
            f"{where}: expected the files {', '.join(sorted(expected))} for the layout {manifest.layout}, found"
            f" {', '.join(sorted(manifest.files)) or 'none'}; correct them."
        )
    return manifest


def _lines(
    manifest: ListManifest, place: Path, name: Literal["sdn.csv", "alt.csv", "jurisdictions.csv"], columns: int
) -> Iterator[tuple[str, list[str]]]:
    """Rows of a CSV file with their place, after its hash was checked."""
    path = place / name
    where = shown_path(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as problem:
        raise ScreeningRefused(f"{where}: cannot be read ({problem.strerror}); add the file.") from None
    if len(content) > MAX_FILE_BYTES:
        raise ScreeningRefused(f"{where}: expected at most {MAX_FILE_BYTES} bytes, found more; check the file.")
    if (digest := hashlib.sha256(content).hexdigest()) != manifest.files[name]:
        raise ScreeningRefused(
            f"{where}: expected the SHA-256 that list.json states, found {digest}; fetch the file again, or write its"
            " hash into list.json after checking it."
        )
    try:
        text = content.decode(manifest.encoding)
    except UnicodeDecodeError as problem:
        raise ScreeningRefused(
            f"{where}: expected {manifest.encoding}, found other bytes at offset {problem.start}; correct the encoding"
            " in list.json."
        ) from None
    # OFAC ends its files with the end-of-file mark of DOS.
    rows = csv.reader(io.StringIO(text.rstrip("\x1a\r\n"), newline=""), strict=True)
    try:
        for number, row in enumerate(rows, 1):
            if not row:
                continue
            if len(row) != columns:
                raise ScreeningRefused(f"{where}, line {number}: expected {columns} columns, found {len(row)}.")
            yield f"{where}, line {number}", row
    except csv.Error as problem:
        raise ScreeningRefused(f"{where}: expected CSV, found a mistake ({problem}); fetch the file again.") from None


def _sdn(manifest: ListManifest, place: Path) -> Iterator[ListedName]:
    primary: dict[str, str] = {}
    for at, row in _lines(manifest, place, "sdn.csv", _SDN_COLUMNS):
        entry = _entry(row[0], at)
        if entry in primary:
            raise ScreeningRefused(f"{at}: expected every entry once, found number {entry} twice; fetch it again.")
        primary[entry] = _name(row[1], at)
        if len(primary) > MAX_ENTRIES:
            raise ScreeningRefused(f"{at}: expected at most {MAX_ENTRIES} entries, found more; check the file.")
        yield ListedName(manifest.id, entry, primary[entry], primary[entry], _comparable(primary[entry], at))
    for number, (at, row) in enumerate(_lines(manifest, place, "alt.csv", _ALT_COLUMNS), 1):
        entry = _entry(row[0], at)
        if entry not in primary:
            raise ScreeningRefused(f"{at}: expected an alias of an entry in sdn.csv, found one of {entry}; fetch both.")
        if number > MAX_ALIASES:
            raise ScreeningRefused(f"{at}: expected at most {MAX_ALIASES} aliases, found more; check the file.")
        alias = _name(row[3], at)
        yield ListedName(manifest.id, entry, primary[entry], alias, _comparable(alias, at))


def _entry(text: str, at: str) -> str:
    if not re.fullmatch(r"[0-9]{1,10}", text.strip()):
        raise ScreeningRefused(f"{at}: expected the number of an entry, found {shown(text)}; fetch the file again.")
    return text.strip()


def _name(text: str, at: str) -> str:
    name = text.strip()
    if not name or name == _NOTHING or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise ScreeningRefused(
            f"{at}: expected a name of 1 to {MAX_NAME_CHARACTERS} printable characters, found {shown(name)};"
            " fetch the file again."
        )
    return name


def _comparable(name: str, at: str) -> ComparableName:
    try:
        return comparable(name)
    except ScreeningRefused as problem:
        raise ScreeningRefused(f"{at}: {problem}") from None


def _jurisdictions(manifest: ListManifest, place: Path) -> Iterable[tuple[str, str]]:
    seen: set[str] = set()
    for number, (at, (country, status)) in enumerate(_lines(manifest, place, "jurisdictions.csv", 2)):
        if number == 0:
            if (country, status) != ("country", "status"):
                raise ScreeningRefused(f"{at}: expected the header country,status, found another; add it.")
            continue
        if not is_country(country):
            raise ScreeningRefused(f"{at}: expected an ISO 3166 code as KP, found {shown(country)}; correct it.")
        if status not in _ON_A_LIST:
            raise ScreeningRefused(
                f"{at}: expected one of {', '.join(sorted(_ON_A_LIST))}, found {shown(status)}; correct it."
            )
        if country in seen:
            raise ScreeningRefused(f"{at}: expected every country once, found {country} twice; remove one.")
        seen.add(country)
        yield country, status
