"""Flower's record of our runs: created, kept alive, taken up again after a crash, and closed."""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.common.constant import NOOP_FLWR_AID, Status, SubStatus
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

logger = logging.getLogger(__name__)

FAB_ID = "tallystick/installed"
FAB_HASH = "0" * 64
"""No bundle exists: nodes run what their owners installed. The hash is what Flower's record wants to hold."""

HEARTBEAT_S = 20.0
"""Flower declares a run dead 60 s after its last heartbeat."""


class RunRecords:
    """The runs of one coordinator in Flower's database.

    Args:
        state: Flower's database.
        table: JSON file of Flower's run id by our run id.
    """

    def __init__(self, state: LinkState, table: Path) -> None:
        self._state = state
        self._table = table

    @contextmanager
    def running(self, name: str) -> Iterator[Run]:
        """Keep a run on record as running while the block lasts; then as completed, or as failed if it raised.

        Takes up the record that a killed process has left, unless Flower has declared it dead meanwhile.

        Args:
            name: Our own id of the run.
        """
        run = self._take_up(name) or self._create(name)
        task_id = run.primary_task_id or 0
        # Flower stamps messages with the identity of the one task that a process runs.
        TaskIdentity.task_id, TaskIdentity.run_id = task_id, run.run_id
        TaskIdentity.node_id = self._state.get_node_id()
        over = threading.Event()
        heartbeat = threading.Thread(target=self._keep_alive, args=(task_id, over), name="run", daemon=True)
        heartbeat.start()
        sub_status, details = SubStatus.FAILED, "the run ended early"
        try:
            yield run
            sub_status, details = SubStatus.COMPLETED, ""
        finally:
            over.set()
            heartbeat.join()
            self._state.finish_task(task_id, sub_status, details)

    def _keep_alive(self, task_id: int, over: threading.Event) -> None:
        while not over.wait(HEARTBEAT_S):
            self._state.acknowledge_task_heartbeat(task_id)

    def _create(self, name: str) -> Run:
        run_id = self._state.create_run(
            FAB_ID, "1", FAB_HASH, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        task_id = self._state.get_run_info(run_ids=[run_id])[0].primary_task_id or 0
        self._state.claim_task(task_id)
        self._state.activate_task(task_id)
        draft = self._table.with_suffix(".new")
        draft.write_text(json.dumps({**self._known(), name: run_id}))
        draft.replace(self._table)
        return self._state.get_run_info(run_ids=[run_id])[0]

    def _take_up(self, name: str) -> Run | None:
        """Record of a run that is still running; None if there is none of this name, or it has ended."""
        run_id = self._known().get(name)
        if run_id is None:
            return None
        runs = self._state.get_run_info(run_ids=[run_id])
        if not runs or runs[0].status.status != Status.RUNNING:
            return None
        logger.info("taking up run %s again", name)
        return runs[0]

    def _known(self) -> dict[str, int]:
        return dict(json.loads(self._table.read_text())) if self._table.exists() else {}
