"""What a check of a member's rows found: counts, never a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Final

_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "missing": "missing",
        "not_numeric": "not a number",
        "infinite": "infinite",
        "below_range": "below the range",
        "above_range": "above the range",
        "not_whole": "not a whole number",
    }
)


@dataclass(frozen=True)
class ColumnReport:
    """Problems of one feature; each row counts at most once, under the first that applies.

    Attributes:
        column: Name of the feature in the agreement.
        missing: Rows without a value, where the contract requires one.
        not_numeric: Rows whose value is not a number.
        infinite: Rows whose value is infinite.
        below_range: Rows below `low` of the contract.
        above_range: Rows above `high` of the contract.
        not_whole: Rows with a fraction, where the contract says integer.
        missing_allowed: Rows without a value, where the contract allows that: no problem, kept.
    """

    column: str
    missing: int = 0
    not_numeric: int = 0
    infinite: int = 0
    below_range: int = 0
    above_range: int = 0
    not_whole: int = 0
    missing_allowed: int = 0

    @property
    def problems(self) -> int:
        """Rows of this column that break the contract."""
        return sum(getattr(self, name) for name in _WORDS)

    def words(self) -> str:
        """The problems in words, for example `3 missing, 1 above the range`."""
        counts = ((getattr(self, name), words) for name, words in _WORDS.items())
        return ", ".join(f"{count:,} {words}" for count, words in counts if count)


@dataclass(frozen=True)
class ContractReport:
    """Outcome of one check; it stays at the node.

    Attributes:
        whose: Whose rows they are, for example the member's id.
        rows_read: Rows of the source.
        rows_kept: Rows that meet the contract.
        columns: One report per feature of the contract.
        absent_columns: Columns that the contract names and the source lacks.
        malformed_ids: Rows without a well-formed entity id.
        duplicate_ids: Rows whose entity id stands in more than one row; all of them are set aside.
        bad_labels: Rows whose label is not 0 or 1.
        columns_not_used: Columns of the source that the contract does not name.
    """

    whose: str
    rows_read: int
    rows_kept: int
    columns: tuple[ColumnReport, ...] = ()
    absent_columns: tuple[str, ...] = ()
    malformed_ids: int = 0
    duplicate_ids: int = 0
    bad_labels: int = 0
    columns_not_used: int = 0

    @property
    def rows_set_aside(self) -> int:
        """Rows that break the contract."""
        return self.rows_read - self.rows_kept

    def lines(self) -> list[str]:
        """The report for a terminal or a log, one line per finding."""
        share = 100 * self.rows_set_aside / self.rows_read if self.rows_read else 0.0
        counts = f"{self.rows_read:,} rows read, {self.rows_kept:,} kept, {self.rows_set_aside:,} set aside"
        lines = [f"{self.whose}: {counts} ({share:.2f} %)"]
        lines.extend(f"  {name}: no such column" for name in self.absent_columns)
        lines.extend(f"  {count:,} {words}" for count, words in self._row_counts() if count)
        lines.extend(f"  {column.column}: {column.words()}" for column in self.columns if column.problems)
        return lines

    def main_problem(self) -> str:
        """The most frequent problem in words, or an empty string."""
        found = [(column.problems, f"{column.column}: {column.words()}") for column in self.columns]
        found += [(count, f"{count:,} {words}") for count, words in self._row_counts()]
        count, words = max(found, default=(0, ""))
        return words if count else ""

    def as_json(self) -> dict[str, object]:
        """The report as plain JSON values."""
        plain: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        plain["columns"] = [asdict(column) for column in self.columns]
        plain["absent_columns"] = list(self.absent_columns)
        plain["rows_set_aside"] = self.rows_set_aside
        return plain

    def _row_counts(self) -> tuple[tuple[int, str], ...]:
        return (
            (self.malformed_ids, "without a well-formed entity id"),
            (self.duplicate_ids, "with an entity id that stands in several rows"),
            (self.bad_labels, "with a label other than 0 or 1"),
        )
