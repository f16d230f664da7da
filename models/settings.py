"""Settings of a horizontal run: public, equal at all members, refused when they make no sense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.binning import BinningRules
from models.local_training import LocalRules
from models.scorecard import PointsScale
from policies.errors import SettingsRefused

Method = Literal["newton", "fedavg", "fedprox", "fedadam"]
DEFAULT_PARAMETERS = 10_000
SMALLEST_RIDGE = 1e-3


@dataclass(frozen=True)
class HorizontalSettings:
    """What all members agree on before a horizontal run.

    Attributes:
        method: `newton` (additive tower; reaches the pooled optimum), `fedavg` (McMahan et al. 2017), `fedprox`
            (Li et al. 2020) or `fedadam` (Reddi et al. 2021).
        tower: `additive` or `neural`.
        bins: Bins aimed at per feature, >= 2.
        hidden_units: Units per hidden layer of a neural tower.
        target_parameters: Size of a neural tower whose `hidden_units` are empty: two equal layers; 0 takes 10,000.
        rounds: Training sums; for `newton` the most, since it stops at the optimum.
        local_epochs: Passes over a member's rows between two sums (not for `newton`).
        batch_size: Rows a local step.
        learning_rate: Of the local optimiser; None takes 0.02 for an additive and 0.002 for a neural tower.
        optimiser: Local optimiser, `adam` or `sgd`.
        proximal_mu: FedProx's pull towards the cohort's parameters, used by `fedprox` alone.
        server_learning_rate: Step size of `fedadam` on the opened mean; None takes 0.1 and 0.005.
        ridge: Weight of squared parameters in rows' worth of evidence, >= 0.001: below, sums are too coarse for it.
        smoothness: Weight of squared second differences from bin to bin (additive tower), in rows' worth, >= 0.
        seed: Public seed of initial weights and shuffles.
        clip: Largest change of a parameter in a round (L-infinity); what exceeds it is cut at the member.
        min_rows_per_column: Bins with fewer rows of the cohort are merged.
        min_cell_count: Smallest number of goods, and of bads, in any cell that may be shown.
        max_rows_per_member: Public bound on a member's rows; sets the range of every count.
        pdo_points: Score points that double the odds.
        base_points: Score points at `base_odds`.
        base_odds: Odds good:bad at `base_points`.
    """

    method: Method = "newton"
    tower: Literal["additive", "neural"] = "additive"
    bins: int = 8
    hidden_units: tuple[int, ...] = ()
    target_parameters: int = 0
    rounds: int = 12
    local_epochs: int = 1
    batch_size: int = 1024
    learning_rate: float | None = None
    optimiser: Literal["adam", "sgd"] = "adam"
    proximal_mu: float = 0.01
    server_learning_rate: float | None = None
    ridge: float = 1.0
    smoothness: float = 20.0
    seed: int = 0
    clip: float = 0.5
    min_rows_per_column: int = 50
    min_cell_count: int = 10
    max_rows_per_member: int = 1 << 20
    pdo_points: float = 20.0
    base_points: float = 600.0
    base_odds: float = 50.0

    def __post_init__(self) -> None:
        if self.method not in ("newton", "fedavg", "fedprox", "fedadam"):
            raise SettingsRefused(
                f"method: expected newton, fedavg, fedprox or fedadam, found {self.method!r}; choose one of them"
            )
        if self.tower not in ("additive", "neural"):
            raise SettingsRefused(f"tower: expected additive or neural, found {self.tower!r}; choose one of them")
        if self.optimiser not in ("adam", "sgd"):
            raise SettingsRefused(f"optimiser: expected adam or sgd, found {self.optimiser!r}; choose one of them")
        if self.method == "newton" and self.tower == "neural":
            raise SettingsRefused(
                "method newton: expected an additive tower, found a neural one, which has no single optimum;"
                " take fedavg, fedprox or fedadam"
            )
        if self.tower == "additive" and (self.hidden_units or self.target_parameters):
            raise SettingsRefused(
                "tower additive: expected no hidden units, found some; take the neural tower or leave them out"
            )
        self._check_ranges()

    def _check_ranges(self) -> None:
        at_least: tuple[tuple[str, float], ...] = (
            ("bins", 2),
            ("rounds", 1),
            ("local_epochs", 1),
            ("batch_size", 1),
            ("min_rows_per_column", 1),
            ("min_cell_count", 1),
            ("max_rows_per_member", 1),
            ("target_parameters", 0),
            ("smoothness", 0),
            ("ridge", SMALLEST_RIDGE),
            ("proximal_mu", 0),
        )
        for name, smallest in at_least:
            found = getattr(self, name)
            if not smallest <= found < float("inf"):
                raise SettingsRefused(f"{name}: expected at least {smallest:g}, found {found:g}; raise it")
        for name in ("learning_rate", "server_learning_rate", "clip", "pdo_points", "base_odds"):
            found = getattr(self, name)
            if found is not None and not 0 < found < float("inf"):
                raise SettingsRefused(f"{name}: expected more than 0, found {found:g}; raise it")
        if any(units < 1 for units in self.hidden_units):
            raise SettingsRefused("hidden_units: expected at least one unit a layer, found fewer; leave the layer out")
        if self.max_rows_per_member > 1 << 26:
            raise SettingsRefused(
                f"max_rows_per_member: expected at most {1 << 26}, found {self.max_rows_per_member}; lower it"
            )

    @property
    def binning(self) -> BinningRules:
        """How bins are chosen."""
        return BinningRules(self.bins, self.min_rows_per_column, self.min_cell_count)

    @property
    def scale(self) -> PointsScale:
        """How log-odds become points."""
        return PointsScale(self.pdo_points, self.base_points, self.base_odds)

    @property
    def local_learning_rate(self) -> float:
        """Step size of the local optimiser."""
        return self.learning_rate or (0.002 if self.tower == "neural" else 0.02)

    @property
    def adam_learning_rate(self) -> float:
        """Step size of `fedadam` on the opened mean."""
        return self.server_learning_rate or (0.005 if self.tower == "neural" else 0.1)

    @property
    def local(self) -> LocalRules:
        """How a member trains between two sums."""
        return LocalRules(
            epochs=self.local_epochs,
            batch_size=self.batch_size,
            learning_rate=self.local_learning_rate,
            optimiser=self.optimiser,
            proximal_mu=self.proximal_mu if self.method == "fedprox" else 0.0,
        )
