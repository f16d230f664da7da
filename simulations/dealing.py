"""Deal the rows of a data set to the members of a consortium, and write each member's file.

Skew makes members differ as real institutions do: a share of each row's place in the deal comes from its rank in a
column (age, say), the rest is chance. Strength 0 is a random deal, strength 1 gives each member a band of its own.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import quote

import numpy as np
import pandas as pd

from policies.errors import UserError
from simulations.datasets.data_set import DataSet

DEMO_SHARES: Final[Mapping[str, float]] = MappingProxyType(
    {"bank-a": 0.40, "bank-b": 0.25, "bank-c": 0.15, "bank-d": 0.12, "bank-e": 0.08}
)
DEMO_KINDS: Final = ("csv", "parquet", "sql", "csv", "parquet")
"""Kind of source of each of the demo's members, in order."""

SourceKind = Literal["csv", "parquet", "sql"]
_TABLE: Final = "borrowers"


class DealImpossible(UserError):
    """The rows cannot be dealt as asked; the sentence says why."""


def deal_shares(
    data_set: DataSet,
    shares: Mapping[str, float],
    *,
    seed: int,
    skew_column: str | None = None,
    skew_strength: float = 0.0,
) -> dict[str, pd.DataFrame]:
    """Deal all rows by shares.

    Args:
        data_set: The rows.
        shares: Share of each member, positive; together 1.
        seed: Same seed, same deal.
        skew_column: Column by whose rank the deal is skewed: low values go to the first member.
        skew_strength: 0 for a random deal to 1 for disjoint bands of `skew_column`.

    Returns:
        Rows by member, every row once, in the order of the data set.

    Raises:
        DealImpossible: Shares are not a division of 1, a member would get no row, or the column cannot be ranked.
    """
    if not shares or any(share <= 0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1.0):
        raise DealImpossible("Expected positive shares that add up to 1, found others; correct the members' shares.")
    total = len(data_set.frame)
    ends = np.round(np.cumsum(list(shares.values())) * total).astype(int)
    sizes = np.diff(ends, prepend=0)
    return deal_sizes(
        data_set,
        dict(zip(shares, sizes.tolist(), strict=True)),
        seed=seed,
        skew_column=skew_column,
        skew_strength=skew_strength,
    )


def deal_sizes(
    data_set: DataSet,
    sizes: Mapping[str, int],
    *,
    seed: int,
    skew_column: str | None = None,
    skew_strength: float = 0.0,
) -> dict[str, pd.DataFrame]:
    """Deal exact numbers of rows; rows beyond them are left out at random.

    Args:
        data_set: The rows.
        sizes: Rows of each member, at least 1.
        seed: Same seed, same deal.
        skew_column: As in `deal_shares`.
        skew_strength: As in `deal_shares`.

    Returns:
        Rows by member, in the order of the data set.

    Raises:
        DealImpossible: There are too few rows, a member would get none, or the column cannot be ranked.
    """
    total = len(data_set.frame)
    if not sizes or min(sizes.values()) < 1 or sum(sizes.values()) > total:
        raise DealImpossible(
            f"Expected at least one row for each of {len(sizes)} members and at most {total:,} in all, found other"
            " sizes; deal fewer members or more rows."
        )
    rng = np.random.default_rng(seed)  # a deal must repeat for a seed; nothing in it is secret
    dealt = np.sort(rng.permutation(total)[: sum(sizes.values())])
    place = rng.random(len(dealt))
    if skew_column is not None:
        ranks = _ranks(data_set.frame.iloc[dealt], skew_column, rng)
        place = _check_strength(skew_strength) * ranks + (1 - skew_strength) * place
    order = dealt[np.argsort(place, kind="stable")]
    bounds = np.cumsum(list(sizes.values()))[:-1]
    return {
        member: data_set.frame.iloc[np.sort(rows)].reset_index(drop=True)
        for member, rows in zip(sizes, np.split(order, bounds), strict=True)
    }


def deal_by_column(data_set: DataSet, column: str, members: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Deal whole groups of rows, for example all loans of a state, as evenly as whole groups allow.

    Args:
        data_set: The rows.
        column: Column that names the group of a row.
        members: At least one; at most as many as groups.

    Returns:
        Rows by member, every row once, in the order of the data set.

    Raises:
        DealImpossible: There is no such column, a row lacks a group, or there are fewer groups than members.
    """
    groups = _column(data_set.frame, column)
    if groups.isna().any():
        raise DealImpossible(
            f"Expected a value of {column!r} in every row, found rows without; deal by another column."
        )
    counts = groups.value_counts()
    if not members or len(counts) < len(members):
        raise DealImpossible(
            f"Expected at least one group of {column!r} for each of {len(members)} members, found {len(counts)};"
            " deal to fewer members."
        )
    loads = dict.fromkeys(members, 0)
    owner: dict[object, str] = {}
    # Largest group first, each to the member with the fewest rows so far; ties by name, so that a deal repeats.
    for group, count in sorted(counts.items(), key=lambda item: (-item[1], str(item[0]))):
        member = min(members, key=lambda name: loads[name])
        owner[group] = member
        loads[member] += count
    owners = groups.map(owner)
    return {member: data_set.frame[owners == member].reset_index(drop=True) for member in members}


def write_rows(frame: pd.DataFrame, folder: Path, stem: str, kind: SourceKind) -> dict[str, str]:
    """Write a member's rows as one of the sources that a node reads.

    Args:
        frame: The rows.
        folder: Where to write; made when needed.
        stem: Name of the file without its ending.
        kind: `csv`, `parquet`, or `sql` for an SQLite database of one table.

    Returns:
        The `[source]` table of the node's settings; all three kinds give the node the same numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    match kind:
        case "csv":
            path = folder / f"{stem}.csv"
            frame.to_csv(path, index=False, lineterminator="\n")
            return {"kind": "csv", "path": str(path)}
        case "parquet":
            path = folder / f"{stem}.parquet"
            frame.to_parquet(path, index=False)
            return {"kind": "parquet", "path": str(path)}
        case "sql":
            path = folder / f"{stem}.db"
            path.unlink(missing_ok=True)
            with closing(sqlite3.connect(path)) as database:
                frame.to_sql(_TABLE, database, index=False)
            columns = ", ".join(f'"{name}"' for name in frame.columns)
            url = f"sqlite:///{quote(str(path.absolute()))}"
            return {"kind": "sql", "url": url, "query": f"SELECT {columns} FROM {_TABLE}"}  # noqa: S608 - own names


def _ranks(rows: pd.DataFrame, column: str, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Rank of each row in a column, in [0, 1); ties are broken by chance, missing values come first."""
    values = pd.to_numeric(_column(rows, column), errors="coerce").to_numpy(dtype=np.float64, na_value=-np.inf)
    if not np.isfinite(values).any():
        raise DealImpossible(f"Expected numbers in {column!r} to skew the deal by, found none; skew by another column.")
    ranks = np.empty(len(rows))
    ranks[np.lexsort((rng.random(len(rows)), values))] = np.arange(len(rows))
    return ranks / len(rows)


def _column(rows: pd.DataFrame, column: str) -> pd.Series:
    if column not in rows.columns:
        raise DealImpossible(f"Expected a column {column!r} to deal by, found none in the data set; choose another.")
    return rows[column]


def _check_strength(strength: float) -> float:
    if not 0 <= strength <= 1:
        raise DealImpossible(f"Expected a skew strength between 0 and 1, found {strength:g}; correct it.")
    return strength
