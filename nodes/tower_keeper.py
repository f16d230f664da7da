"""What a member does with a tower that it has helped to train: keeps it, and serves scores from it."""

from __future__ import annotations

import numpy as np

from nodes.membership import Membership
from nodes.score_publication import publish_scores
from nodes.settings import NodeSettings
from nodes.tower_folder import TowerFolder
from nodes.vertical_data import PlacedRows
from nodes.vertical_feature import TrainedTower


class TowerKeeper:
    """Keeps towers in the state folder and, where the settings have a scoring table, publishes partial scores.

    The scores are of all entities about which this member answers, aligned with somebody or not: an entity that an
    earlier member of the role knows is left to that member (rule C10).

    Args:
        settings: State folder, tables and token key.
        membership: Who this node is.
    """

    def __init__(self, settings: NodeSettings, membership: Membership) -> None:
        self._settings = settings
        self._membership = membership
        self._towers = TowerFolder(settings.state_dir)

    def __call__(self, trained: TrainedTower, rows: PlacedRows) -> None:
        """Keep and publish.

        Raises:
            UserError: The table of scores cannot be written.
        """
        self._towers(trained, rows)
        if self._settings.scoring is None:
            return
        at = np.flatnonzero(rows.answers)
        tower = trained.tower
        publish_scores(
            self._settings,
            self._membership,
            task=tower.task,
            model_version=trained.version,
            ids=[rows.own.entity_ids[row] for row in at.tolist()],
            contributions=tower.contributions({name: values[at] for name, values in rows.own.columns.items()}),
            reason_codes=tuple(bins.feature.reason_code for bins in tower.tower.basis.bins),
        )
