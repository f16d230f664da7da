"""Scenario files: what `tallystick simulate` is told, as frozen models, and one sentence for whatever is wrong."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self

import pandas as pd
from pydantic import ConfigDict, Field, model_validator

from policies.agreement import MemberId, ModelTerms, PrivacyTerms
from policies.closed_model import ClosedModel, parse_model, parse_toml, read_bounded, shown_path
from policies.errors import UserError
from policies.presets import smallest_privacy_terms
from policies.proposal import MethodSettings
from simulations.datasets import DATA_SETS, DataSet, load_data_set
from simulations.dealing import deal_shares, deal_sizes
from simulations.in_process import Fault, Faults
from simulations.population import synthetic_population

_HINT = "simulations/README.md lists the keys"
SYNTHETIC_ROWS = 20_000
LARGEST_COHORT = 200
Phase = Literal["contribute", "seeds", "shares"]


class ScenarioRefused(UserError):
    """A scenario file that cannot be simulated; the sentence says what to change."""


class DataTerms(ClosedModel):
    """Which rows there are."""

    set: str
    """One of `simulations.datasets.DATA_SETS`."""
    rows: Annotated[int, Field(ge=100, le=10_000_000)] | None = None
    """Rows to draw (synthetic) or to sample; all of them, or 20,000 synthetic ones, when left out."""

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.set not in DATA_SETS:
            raise ValueError(f"set: expected one of {', '.join(DATA_SETS)}, found another; choose one of them")
        return self


class MemberTerms(ClosedModel):
    """Who takes part, and how the rows are dealt to them."""

    count: Annotated[int, Field(ge=3, le=LARGEST_COHORT)] | None = None
    """So many members of equal shares, called bank-01, bank-02 ..."""
    shares: dict[MemberId, Annotated[float, Field(gt=0, le=1)]] | None = None
    """Or the share of each member by name; together 1."""
    skew_column: str | None = None
    """Column by whose rank the deal is skewed."""
    skew_strength: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0 deals at random, 1 gives each member a band of `skew_column`."""

    @model_validator(mode="after")
    def _names_members_once(self) -> Self:
        if (self.count is None) == (self.shares is None):
            raise ValueError("expected either count or shares, found both or neither; keep one of them")
        if self.shares is not None:
            if not 3 <= len(self.shares) <= LARGEST_COHORT:
                raise ValueError(
                    f"shares: expected 3 to {LARGEST_COHORT} members, found {len(self.shares)}; add or remove members"
                )
            if not math.isclose(sum(self.shares.values()), 1.0, abs_tol=1e-9):
                raise ValueError(
                    f"shares: expected shares that add up to 1, found {sum(self.shares.values()):g}; correct them"
                )
        if self.skew_strength and self.skew_column is None:
            raise ValueError("skew_strength: expected a skew_column beside it, found none; name the column")
        return self

    @property
    def all_shares(self) -> dict[str, float]:
        """Share by member."""
        if self.shares is not None:
            return dict(self.shares)
        count = self.count or 0
        return {f"bank-{number:02d}": 1.0 / count for number in range(1, count + 1)}


class TrainingTerms(MethodSettings):
    """The run's method; `seed` is the scenario's own."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _has_no_seed(self) -> Self:
        if "seed" in self.model_fields_set:
            raise ValueError("seed: expected the one seed at the top of the file, found a second one; remove it here")
        return self


class PrivacyFloor(ClosedModel):
    """The floor of the agreement; bounds are the smallest safe ones for the cohort."""

    max_colluders: Annotated[int, Field(ge=0)] = 1
    allow_roster_change: bool = False
    """Whether a run goes on without members that have dropped out, or waits for them (rule A7)."""
    min_cell_count: Annotated[int, Field(ge=1)] = 10
    min_rows_per_column: Annotated[int, Field(ge=2)] = 50

    def terms(self, num_members: int) -> PrivacyTerms:
        """The agreement's terms for so many members."""
        smallest = smallest_privacy_terms(num_members, self.max_colluders)
        return PrivacyTerms.model_validate({**smallest.model_dump(), **self.model_dump()})


class DropOut(ClosedModel):
    """One member that fails in one phase of a sum, and of the sums after it."""

    member: MemberId
    round: Annotated[int, Field(ge=1)] | None = None
    """Training round, from 1."""
    step: Annotated[int, Field(ge=0)] | None = None
    """Or the number of the sum: 0 is the binning, 1 the first training round."""
    phase: Phase
    kind: Fault = "lost"
    sums: Annotated[int, Field(ge=1)] = 1
    """In how many sums in a row."""

    @model_validator(mode="after")
    def _says_when(self) -> Self:
        if (self.round is None) == (self.step is None):
            raise ValueError("expected either round or step, found both or neither; keep one of them")
        return self

    @property
    def first_sum(self) -> int:
        """Number of the first sum it concerns: the binning is sum 0, so round r is sum r."""
        return self.round if self.round is not None else self.step or 0

    def concerns(self, k: int) -> bool:
        """Whether the member fails in sum k."""
        return self.first_sum <= k < self.first_sum + self.sums


class RandomDropOuts(ClosedModel):
    """Every member fails in every sum with one probability."""

    rate: Annotated[float, Field(ge=0, lt=1)]
    phase: Phase = "contribute"
    kind: Fault = "lost"


class Scenario(ClosedModel):
    """One simulation."""

    format: Literal["tallystick-scenario/1"]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of rows, deal, hold-out, initial weights and drop-outs. Keys and masks are random every time."""
    compare: Literal["none", "pooled", "all"] = "none"
    """Whether an auditor, who exists in simulations alone, trains on all rows, and on each member's own."""
    data: DataTerms
    members: MemberTerms
    model: ModelTerms = ModelTerms(tower="additive", ridge=1.0, smoothness=0.5)
    training: TrainingTerms = TrainingTerms()
    privacy: PrivacyFloor = PrivacyFloor()
    dropouts: Annotated[tuple[DropOut, ...], Field(max_length=1000)] = ()
    random_dropouts: RandomDropOuts | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        members = self.members.all_shares
        if self.training.method == "newton" and self.model.tower == "neural":
            raise ValueError(
                "training.method: expected fedavg, fedprox or fedadam for a neural tower, found newton; change one"
            )
        for number, drop_out in enumerate(self.dropouts, start=1):
            if drop_out.member not in members:
                raise ValueError(
                    f"dropouts[{number}].member: expected one of the {len(members)} members, found "
                    f"{drop_out.member!r}; correct the name"
                )
            if drop_out.round is not None and drop_out.round > self.training.rounds:
                raise ValueError(
                    f"dropouts[{number}].round: expected at most {self.training.rounds} (training.rounds), found "
                    f"{drop_out.round}; correct it"
                )
        if len(members) < self.privacy.max_colluders + 2:
            raise ValueError(
                f"privacy.max_colluders: expected at most {len(members) - 2} for {len(members)} members, found "
                f"{self.privacy.max_colluders}; lower it"
            )
        return self

    @property
    def method_settings(self) -> MethodSettings:
        """The run's settings with the scenario's seed."""
        return MethodSettings.model_validate({**self.training.model_dump(), "seed": self.seed})

    @property
    def holdout_key(self) -> bytes:
        """32 bytes from the seed: the same rows are held out every time."""
        return hashlib.sha256(f"tallystick/simulation/hold-out/{self.seed}".encode()).digest()


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        ScenarioRefused: It cannot be read, is no TOML, or asks for something impossible.
    """
    data = parse_toml(read_bounded(path, ScenarioRefused), path, ScenarioRefused)
    return parse_model(Scenario, data, shown_path(path), ScenarioRefused, _HINT)


def load_rows(scenario: Scenario) -> tuple[DataSet, dict[str, pd.DataFrame]]:
    """The data set, and each member's rows.

    Raises:
        UserError: The data set cannot be had here, or its rows cannot be dealt as asked.
    """
    terms, members = scenario.data, scenario.members
    if terms.set == "synthetic":
        data_set = synthetic_population(terms.rows or SYNTHETIC_ROWS, scenario.seed)
    else:
        data_set = load_data_set(terms.set)
    shares = members.all_shares
    total = len(data_set.frame)
    if terms.rows is None or terms.rows == total:
        rows = deal_shares(
            data_set,
            shares,
            seed=scenario.seed,
            skew_column=members.skew_column,
            skew_strength=members.skew_strength,
        )
        return data_set, rows
    if terms.rows > total:
        raise ScenarioRefused(
            f"data.rows: expected at most the {total:,} rows of {terms.set}, found {terms.rows:,}; lower it."
        )
    rows = deal_sizes(
        data_set,
        {member: max(1, int(share * terms.rows)) for member, share in shares.items()},
        seed=scenario.seed,
        skew_column=members.skew_column,
        skew_strength=members.skew_strength,
    )
    return data_set, rows


def planned_faults(scenario: Scenario, current_sum: Callable[[], int]) -> Faults:
    """The scenario's drop-outs as the in-process Grid asks for them.

    A member that is `lost` or `offline` stays so for every repetition of the message; the other kinds befall the
    first one of a sum alone, or a run that asks again would never get an answer.

    Args:
        scenario: The scenario.
        current_sum: Gives the number of the sum that the coordinator works on.
    """
    seen: set[tuple[str, str, int]] = set()

    def fault(member: str, action: str, _attempt: int) -> Fault | None:
        k = current_sum()
        kind = _kind(scenario, member, action, k)
        if kind in {None, "lost", "offline"}:
            return kind
        first = (member, action, k) not in seen
        seen.add((member, action, k))
        return kind if first else None

    return fault


def _kind(scenario: Scenario, member: str, action: str, k: int) -> Fault | None:
    for drop_out in scenario.dropouts:
        if (drop_out.member, drop_out.phase) == (member, action) and drop_out.concerns(k):
            return drop_out.kind
    chance = scenario.random_dropouts
    if chance is not None and chance.phase == action and _draw(scenario.seed, member, k) < chance.rate:
        return chance.kind
    return None


def _draw(seed: int, member: str, k: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"tallystick/simulation/drop-out/{seed}/{member}/{k}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
