"""A member's rows against the feature contract of the agreement.

Rows that break the contract are set aside and counted. A contract that is broken as a whole (a column is absent,
too many rows are bad, nothing is left, the label never varies) stops the node: training on a column that means
something else would not show in a sealed sum.

A value outside [low, high] sets its row aside, since the range is public and shapes what every member sends; ranges
must therefore hold what the data really contains. Rows come out in the order of their ids, so that a query without
ORDER BY gives a node that restarts the same training data again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.features import FeatureTerms, TrainingData
from models.holdout import holdout_mask
from nodes.column_values import ids_of, numbers_of
from nodes.contract_report import ColumnReport, ContractReport
from policies.agreement import Agreement
from policies.errors import UserError
from protos.private_set_intersection.identifiers import IdentifierType

_MAX_NAMES_SHOWN: Final = 10


class ContractBroken(UserError):
    """The rows do not meet the agreement; `report` has the counts behind the sentence."""

    def __init__(self, sentence: str, report: ContractReport | None = None) -> None:
        super().__init__(sentence)
        self.report = report


@dataclass(frozen=True)
class ContractLimits:
    """When setting rows aside is no longer enough.

    Attributes:
        max_set_aside_share: Share of bad rows in [0, 1) above which the node stops.
    """

    max_set_aside_share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.max_set_aside_share < 1:
            raise ValueError(f"max_set_aside_share must be in [0, 1), got {self.max_set_aside_share}")


DEFAULT_LIMITS: Final = ContractLimits()


@dataclass(frozen=True, eq=False)
class CheckedRows:
    """Rows that meet the contract, in the order of their ids.

    Attributes:
        entity_ids: One id per row, each once, ascending.
        columns: One float64 array of shape (rows,) per feature; nan where a value is missing.
        label: int8 array of shape (rows,), 1 for bad; None if no label was asked for.
        further_labels: The same for each further label column that was asked for.
    """

    entity_ids: tuple[str, ...]
    columns: Mapping[str, NDArray[np.float64]]
    label: NDArray[np.int8] | None
    further_labels: Mapping[str, NDArray[np.int8]] = field(default_factory=dict)

    def training_data(self, holdout_key: bytes, holdout_percent: int, id_type: IdentifierType = "text") -> TrainingData:
        """The rows as models take them, the hold-out marked.

        Args:
            holdout_key: 32 bytes of the agreement.
            holdout_percent: Share that is held out, in percent.
            id_type: How ids are written, from the agreement.

        Raises:
            ContractBroken: The rows were checked without a label.
        """
        if self.label is None:
            raise ContractBroken("Rows without a label cannot be trained on; check them with the label's column.")
        return TrainingData(
            columns=self.columns,
            label=self.label,
            holdout=holdout_mask(self.entity_ids, holdout_key, holdout_percent, id_type),
        )


def prepare_rows(
    frame: pd.DataFrame,
    agreement: Agreement,
    *,
    member_id: str,
    task_name: str,
    limits: ContractLimits = DEFAULT_LIMITS,
) -> tuple[TrainingData, ContractReport]:
    """Check a member's rows and make them ready for training.

    Args:
        frame: As `nodes.sources.load_rows` returns it.
        agreement: The agreement; the member's role decides which columns are needed.
        member_id: Whose rows they are.
        task_name: The task to train.
        limits: When to stop.

    Returns:
        The training data (hold-out marked by keyed hash of the entity id), and what the check found.

    Raises:
        ContractBroken: The contract is broken as a whole, or the role does not hold the label of the task.
        AgreementRefused: The agreement has no such member or task.
    """
    role = agreement.member(member_id).role
    task = agreement.task(task_name)
    if task.label_role != role:
        raise ContractBroken(
            f"{member_id}: expected a member of role {task.label_role!r}, which holds the label of task"
            f" {task_name!r}, found role {role!r}; train this task where the label is."
        )
    rows, report = check_rows(
        frame,
        agreement.features_of(role),
        id_column=agreement.entities.id_column,
        label_column=task.label,
        whose=member_id,
        limits=limits,
    )
    entities = agreement.entities
    data = rows.training_data(entities.holdout_key_bytes, entities.holdout_percent, entities.id_type)
    training_label = data.label[~data.holdout]
    if not training_label.any() or training_label.all():
        found = "no row" if not len(training_label) else "one of them alone"
        raise ContractBroken(
            f"{member_id}: expected both labels, 0 and 1, in column {task.label!r} of the training rows,"
            f" found {found}; bring more rows.",
            report,
        )
    return data, report


def check_rows_of_tasks(
    frame: pd.DataFrame,
    agreement: Agreement,
    *,
    member_id: str,
    task_names: Sequence[str],
    limits: ContractLimits = DEFAULT_LIMITS,
) -> tuple[CheckedRows, dict[str, NDArray[np.int8]], ContractReport]:
    """A member's rows in a run across roles: its role's columns, and the label of every task whose label it holds.

    Args:
        frame: As `nodes.sources.load_rows` returns it, of entities that consented.
        agreement: The agreement; the member's role decides which columns are needed.
        member_id: Whose rows they are.
        task_names: The run's tasks.
        limits: When to stop.

    Returns:
        The rows, the labels by task, and what the check found.

    Raises:
        ContractBroken: The contract is broken as a whole.
        AgreementRefused: The agreement has no such member or task.
    """
    role = agreement.member(member_id).role
    own = {name: agreement.task(name).label for name in task_names if agreement.task(name).label_role == role}
    columns = list(dict.fromkeys(own.values()))
    rows, report = check_rows(
        frame,
        agreement.features_of(role),
        id_column=agreement.entities.id_column,
        label_column=columns[0] if columns else None,
        further_label_columns=columns[1:],
        whose=member_id,
        limits=limits,
    )
    found = dict(rows.further_labels)
    if rows.label is not None:
        found[columns[0]] = rows.label
    return rows, {name: found[column] for name, column in own.items()}, report


def check_rows(
    frame: pd.DataFrame,
    features: Sequence[FeatureTerms],
    *,
    id_column: str,
    label_column: str | None,
    further_label_columns: Sequence[str] = (),
    whose: str,
    limits: ContractLimits = DEFAULT_LIMITS,
) -> tuple[CheckedRows, ContractReport]:
    """Check rows against a feature contract.

    The plan: (1) every column is there; (2) ids, label and each feature give a mask of bad rows; (3) few enough are
    bad; (4) what is left is sorted by id.

    Args:
        frame: Rows with columns of any type; columns that the contract does not name are ignored.
        features: The contract.
        id_column: Column of entity ids.
        label_column: Column of labels 0 and 1, or None where none is needed (scoring).
        further_label_columns: More such columns, for runs with several tasks.
        whose: Whose rows they are, the start of every sentence.
        limits: When to stop.

    Returns:
        The rows that meet the contract, and what the check found.

    Raises:
        ContractBroken: A column is absent, too many rows are bad, or none is left.
    """
    label_columns = [*([label_column] if label_column else []), *further_label_columns]
    required = [id_column, *label_columns, *(feature.name for feature in features)]
    _check_columns_are_there(frame, required, whose)  # 1
    ids = np.array(ids_of(frame[id_column]), dtype=object)  # 2
    malformed = np.array([entity_id is None for entity_id in ids], dtype=bool)
    duplicate = pd.Series(ids).duplicated(keep=False).to_numpy(dtype=bool) & ~malformed
    bad = malformed | duplicate
    labels = {name: numbers_of(frame[name]).as_float for name in label_columns}
    bad_label = np.zeros(len(frame), dtype=bool)
    for values in labels.values():
        bad_label |= ~np.isin(values, (0.0, 1.0))
    bad |= bad_label
    columns: dict[str, NDArray[np.float64]] = {}
    reports: list[ColumnReport] = []
    for feature in features:
        columns[feature.name], column_bad, column_report = _check_feature(frame[feature.name], feature)
        bad |= column_bad
        reports.append(column_report)
    report = ContractReport(
        whose=whose,
        rows_read=len(frame),
        rows_kept=int(np.count_nonzero(~bad)),
        columns=tuple(reports),
        malformed_ids=int(malformed.sum()),
        duplicate_ids=int(duplicate.sum()),
        bad_labels=int(bad_label.sum()),
        columns_not_used=len(frame.columns) - len(required),
    )
    _check_enough_is_left(report, limits)  # 3
    kept = np.flatnonzero(~bad)
    kept = kept[np.argsort(ids[kept], kind="stable")]  # 4
    return (
        CheckedRows(
            entity_ids=tuple(ids[kept]),
            columns={name: values[kept] for name, values in columns.items()},
            label=None if label_column is None else labels[label_column][kept].astype(np.int8),
            further_labels={name: labels[name][kept].astype(np.int8) for name in further_label_columns},
        ),
        report,
    )


def _check_columns_are_there(frame: pd.DataFrame, required: Sequence[str], whose: str) -> None:
    absent = tuple(name for name in required if name not in frame.columns)
    if not absent:
        return
    names = ", ".join(absent[:_MAX_NAMES_SHOWN]) + (", ..." if len(absent) > _MAX_NAMES_SHOWN else "")
    raise ContractBroken(
        f"{whose}: expected the {len(required)} columns of the agreement, found {len(absent)} missing ({names});"
        " add them to the source under these names.",
        ContractReport(whose=whose, rows_read=len(frame), rows_kept=0, absent_columns=absent),
    )


def _check_feature(
    column: pd.Series, terms: FeatureTerms
) -> tuple[NDArray[np.float64], NDArray[np.bool_], ColumnReport]:
    """Values, bad rows and counts of one feature; each row is counted under the first problem that applies."""
    numbers = numbers_of(column)
    values = numbers.as_float
    infinite = np.isinf(values)
    below = ~infinite & (values < terms.low)
    above = ~infinite & (values > terms.high)
    in_range = (values >= terms.low) & (values <= terms.high)
    not_whole = in_range & (values != np.floor(values)) if terms.type == "integer" else np.zeros_like(infinite)
    missing = numbers.missing & (not terms.missing_allowed)
    bad = missing | numbers.not_numeric | infinite | below | above | not_whole
    report = ColumnReport(
        column=terms.name,
        missing=int(missing.sum()),
        not_numeric=int(numbers.not_numeric.sum()),
        infinite=int(infinite.sum()),
        below_range=int(below.sum()),
        above_range=int(above.sum()),
        not_whole=int(not_whole.sum()),
        missing_allowed=int(numbers.missing.sum()) if terms.missing_allowed else 0,
    )
    return values, bad, report


def _check_enough_is_left(report: ContractReport, limits: ContractLimits) -> None:
    if report.rows_kept == 0:
        why = f" (mostly {report.main_problem()})" if report.rows_set_aside else ""
        raise ContractBroken(
            f"{report.whose}: expected rows that meet the agreement, found none among {report.rows_read:,}{why};"
            " correct the source.",
            report,
        )
    if report.rows_set_aside > limits.max_set_aside_share * report.rows_read:
        raise ContractBroken(
            f"{report.whose}: expected at most {100 * limits.max_set_aside_share:g} % of rows that break the agreement,"
            f" found {report.rows_set_aside:,} of {report.rows_read:,} (mostly {report.main_problem()});"
            " correct the source.",
            report,
        )
