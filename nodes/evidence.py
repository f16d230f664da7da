"""What this member can say of orders and invoices, from its own books: a table that the three-way match looks up."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.score_slots import ScoreSlots
from nodes.column_values import ids_of, numbers_of
from nodes.scoring_tables import EntityTable, publish
from nodes.settings import EvidencePlace, NodeSettings
from nodes.sources import load_rows
from policies.documents import FIELDS, KINDS, TASK, VERSION, DocumentRefused, amount_of, document_token
from policies.errors import SettingsRefused, UserError
from policies.token_key import TokenKey, load_token_key

log = logging.getLogger(__name__)

PAID_AMOUNT = "paid_amount"
FLAGS = ("shipped", "delivered", "pledged")
_UNITS = 10_000  # amounts are counted in ten-thousandths


@dataclass(frozen=True)
class EvidenceReport:
    """What was found in the rows.

    Attributes:
        rows_read: All of them.
        rows_set_aside: Rows with a field of a document that is not of its form, or evidence that is neither 0 nor 1.
        num_documents: Different documents.
        kinds: Kinds of evidence that the columns can give.
    """

    rows_read: int
    rows_set_aside: int
    num_documents: int
    kinds: tuple[str, ...]


def evidence_of(frame: pd.DataFrame, key: TokenKey, tolerance_percent: float) -> tuple[EntityTable, EvidenceReport]:
    """Evidence by document: what any row of it says, and whether all that was paid for it is its amount.

    Args:
        frame: Columns `FIELDS`, and any of `paid_amount` (a number), `shipped`, `delivered`, `pledged` (0 or 1).
        key: Of the members.
        tolerance_percent: How far what was paid may be from the document's amount.

    Raises:
        SettingsRefused: A field's column is absent, or there is no column of evidence.
    """
    kinds = _kinds_of(frame)
    fields = [_texts(frame[name]) for name in FIELDS]
    paid, usable = _paid(frame)
    flags = {}
    for name in FLAGS:
        flags[name], fine = _flag(frame, name)
        usable &= fine
    documents: dict[bytes, list[int]] = {}
    set_aside = 0
    for row, values in enumerate(zip(*fields, strict=True)):
        try:
            if not usable[row]:
                raise DocumentRefused("not usable")
            named = {name: value or "" for name, value in zip(FIELDS, values, strict=True)}
            documents.setdefault(document_token(key, named), []).append(row)
        except DocumentRefused:
            set_aside += 1
    slots = np.zeros((len(documents), len(KINDS)), dtype=np.int64)
    amounts = fields[FIELDS.index("amount")]
    for place, rows in enumerate(documents.values()):
        sum_paid = float(paid[rows].sum())
        amount = (amount_of(amounts[rows[0]] or "") or 0) / _UNITS
        slots[place, KINDS.index("paid")] = sum_paid > 0
        slots[place, KINDS.index("amount")] = (
            sum_paid > 0 and abs(sum_paid - amount) <= amount * tolerance_percent / 100
        )
        for name in FLAGS:
            slots[place, KINDS.index(name)] = flags[name][rows].any()
    table = EntityTable.of(ScoreSlots.of_documents(), list(documents), slots)
    return table, EvidenceReport(len(frame), set_aside, len(documents), kinds)


def publish_evidence(settings: NodeSettings) -> EvidenceReport | None:
    """Read the source again and put the table where the running node takes it up.

    Returns:
        What was found; None for a node without a table of evidence or of scoring in its settings.

    Raises:
        UserError: The source cannot be read, or there is no token key.
    """
    place, scoring, key_path = settings.evidence, settings.scoring, settings.token_key_path
    if place is None or scoring is None:
        return None
    if key_path is None:
        raise SettingsRefused(
            "expected the members' token key (token_key_path of the scoring or the consent table in node.toml), found"
            " none; without it documents have no fingerprint."
        )
    frame = load_rows(place.opened_source(os.environ))
    table, report = evidence_of(frame, load_token_key(key_path), place.amount_tolerance_percent)
    publish(scoring.tables_dir, TASK, VERSION, table)
    log.info(
        "evidence of %d documents (%s) from %d rows, %d set aside",
        report.num_documents,
        ", ".join(report.kinds),
        report.rows_read,
        report.rows_set_aside,
    )
    return report


class EvidenceReader:
    """Reads the source again every so often, in a thread: what was pledged a minute ago must count.

    Args:
        settings: With a table of evidence.
        place: That table.
    """

    def __init__(self, settings: NodeSettings, place: EvidencePlace) -> None:
        self._settings = settings
        self._place = place
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="evidence", daemon=True)

    def start(self) -> EvidenceReport | None:
        """Read once, now, and then every `refresh_s`.

        Raises:
            UserError: The source cannot be read, or there is no token key.
        """
        report = publish_evidence(self._settings)
        self._thread.start()
        return report

    def stop(self) -> None:
        """Read no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _read(self) -> None:
        while not self._stop.wait(self._place.refresh_s):
            try:
                publish_evidence(self._settings)
            except UserError as problem:
                log.warning("the last table of evidence stays in use: %s", problem)


def _kinds_of(frame: pd.DataFrame) -> tuple[str, ...]:
    absent = [name for name in FIELDS if name not in frame.columns]
    if absent:
        raise SettingsRefused(
            f"expected the columns {', '.join(FIELDS)} in the source of evidence, found {', '.join(absent)} missing;"
            " add them under these names."
        )
    kinds = (("paid", "amount") if PAID_AMOUNT in frame.columns else ()) + tuple(
        name for name in FLAGS if name in frame.columns
    )
    if not kinds:
        raise SettingsRefused(
            f"expected a column of evidence ({PAID_AMOUNT}, {', '.join(FLAGS)}) in the source, found none; add one."
        )
    return kinds


def _texts(column: pd.Series[Any]) -> list[str | None]:
    """A field as text: a database's dates without the time of day, its floats with all decimals that count."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        column = column.dt.strftime("%Y-%m-%d")
    elif pd.api.types.is_float_dtype(column.dtype):
        return [None if np.isnan(value) else f"{value:.4f}" for value in column]
    return ids_of(column)


def _paid(frame: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What each row says was paid, zero where it says nothing, and which rows can be used."""
    if PAID_AMOUNT not in frame.columns:
        return np.zeros(len(frame)), np.ones(len(frame), dtype=np.bool_)
    numbers = numbers_of(frame[PAID_AMOUNT])
    usable = ~numbers.not_numeric & ~np.isinf(numbers.as_float)
    return np.nan_to_num(numbers.as_float, posinf=0.0, neginf=0.0), usable


def _flag(frame: pd.DataFrame, name: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """What each row says, false where it says nothing, and which rows can be used."""
    if name not in frame.columns:
        return np.zeros(len(frame), dtype=np.bool_), np.ones(len(frame), dtype=np.bool_)
    column = frame[name]
    if pd.api.types.is_bool_dtype(column.dtype):
        column = column.astype("float64")
    numbers = numbers_of(column)
    usable = ~numbers.not_numeric & (numbers.missing | np.isin(numbers.as_float, (0.0, 1.0)))
    return numbers.as_float == 1.0, usable
