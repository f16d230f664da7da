"""Where a node keeps the towers that it has helped to train: one file per task and model version, mode 0600."""

from __future__ import annotations

import os
from pathlib import Path

from models.role_tower import RoleTower
from nodes.vertical_data import PlacedRows
from nodes.vertical_feature import TrainedTower

FOLDER = "towers"


class TowerFolder:
    """`<state>/towers/<task>.<version>.json`.

    Args:
        state_dir: The node's state folder.
    """

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / FOLDER

    def __call__(self, trained: TrainedTower, rows: PlacedRows) -> None:
        """Keep a tower; whole or not at all."""
        del rows
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.path(trained.tower.task, trained.version)
        temporary = path.with_name(f".{path.name}.part")
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.write(trained.tower.to_bytes())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def path(self, task: str, version: str) -> Path:
        """Where the tower of a task and version lies."""
        return self._folder / f"{task}.{version}.json"

    def load(self, task: str, version: str) -> RoleTower:
        """Read a tower back.

        Raises:
            RoleTowerRefused: It is not what was written.
        """
        return RoleTower.from_bytes(self.path(task, version).read_bytes())
