"""This member's rows, read and checked against the agreement's contract once for the life of the process."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

import numpy as np

from models.features import TrainingData
from nodes.consent import ConsentFilter
from nodes.contract import check_rows_of_tasks, prepare_rows
from nodes.membership import Membership
from nodes.settings import NodeSettings
from nodes.sources import load_rows
from nodes.vertical_data import OwnRows

log = logging.getLogger(__name__)


class CheckedData:
    """This member's rows, read and checked when a task first asks for them, then kept for the life of the process."""

    def __init__(self, membership: Membership, settings: NodeSettings, announce: Callable[[str], None]) -> None:
        self._membership = membership
        self._settings = settings
        self._announce = announce
        self._rows: dict[str, TrainingData] = {}

    def __call__(self, task: str) -> TrainingData:
        """The rows for a task.

        Raises:
            UserError: The source cannot be read, or breaks the agreement's contract.
        """
        if task not in self._rows:
            frame = load_rows(self._settings.opened_source(os.environ))
            data, report = prepare_rows(
                frame, self._membership.agreement, member_id=self._membership.member, task_name=task
            )
            for line in report.lines():
                log.info("%s", line)
            self._announce(
                f"{task}: {report.rows_kept} of {report.rows_read} rows in use, {report.rows_set_aside} set aside"
            )
            self._rows[task] = data
        return self._rows[task]


class CheckedVerticalRows:
    """This member's rows in runs across roles: its role's columns, and the labels that its role holds.

    Read and checked when a run first asks for its tasks, then kept: a run must see the same rows throughout, and its
    alignment the entities of just these rows.


    Args:
        membership: Who this node is.
        settings: Where the rows are.
        consent: Which of them may be used.
        announce: Called with one line about what was found.
    """

    def __init__(
        self,
        membership: Membership,
        settings: NodeSettings,
        consent: Callable[[], ConsentFilter],
        announce: Callable[[str], None],
    ) -> None:
        self._membership = membership
        self._settings = settings
        self._consent = consent
        self._announce = announce
        self._kept: tuple[frozenset[str], OwnRows] | None = None

    def __call__(self, *tasks: str) -> OwnRows:
        """The rows of these tasks, in the order of their ids, also those whose entity did not consent.

        Raises:
            UserError: The source cannot be read, or breaks the agreement's contract.
        """
        if self._kept is None or self._kept[0] != frozenset(tasks):
            frame = load_rows(self._settings.opened_source(os.environ))
            rows, labels, report = check_rows_of_tasks(
                frame, self._membership.agreement, member_id=self._membership.member, task_names=tasks
            )
            for line in report.lines():
                log.info("%s", line)
            self._announce(f"{', '.join(tasks)}: {report.rows_kept} of {report.rows_read} rows to align")
            as_float = {task: label.astype(np.float64) for task, label in labels.items()}
            self._kept = frozenset(tasks), OwnRows(rows.entity_ids, rows.columns, as_float)
        return self._kept[1]

    def entities(self, tasks: Sequence[str], purpose: str) -> tuple[str | None, ...]:
        """One id a row, None for a row whose entity did not consent to the purpose.

        Raises:
            UserError: The source cannot be read, or breaks the agreement's contract; or consent cannot be told.
        """
        ids = self(*tasks).entity_ids
        consented = self._consent().rows(ids, purpose)
        if not consented.all():
            self._announce(f"{', '.join(tasks)}: {int(consented.sum())} of {len(ids)} entities consented to {purpose}")
        return tuple(entity if may else None for entity, may in zip(ids, consented.tolist(), strict=True))

    def check(self, task: str) -> None:
        """Read the source once and tell how many entities could be aligned for each purpose."""
        policy = self._membership.policy
        for purpose in self._membership.agreement.task(task).purposes:
            if purpose in policy.purposes:
                self.entities((task,), purpose)


def check_sources(membership: Membership, data: CheckedData, rows: CheckedVerticalRows) -> None:
    """Read and check what the owner's policy lets this node take part in, before it connects.

    Raises:
        UserError: The source cannot be read, or breaks the agreement's contract; or consent cannot be told.
    """
    role = membership.agreement.member(membership.member).role
    for task in membership.agreement.tasks:
        if task.name not in membership.policy.tasks:
            continue
        if task.label_role == role:
            data(task.name)
        elif membership.agreement.features_of(role):
            rows.check(task.name)
