"""The record of a model that no single party holds: what turns a total of partial scores into PD and points.

Its towers stay with the members. The bias, the scale and the reason codes are public among those who ask for scores;
a training run writes them as `federated_model.json` into its folder.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from policies.agreement import Name, ReasonCode
from policies.closed_model import HEX_32_BYTES, MAX_FILE_BYTES, ClosedModel, parse_model, read_bounded, shown_path
from policies.errors import SettingsRefused
from policies.grant_files import write_replacing

FILE_NAME = "federated_model.json"
STEPS_PER_LOG_ODDS = 64
"""Partial scores are rounded to 1/64 log-odds at the node (C9)."""
_HINT = "a training run writes a complete one"


class FederatedModel(ClosedModel):
    """What a caller needs besides the total; construction refuses what does not hold together."""

    format: Literal["tallystick-federated-model/1"] = "tallystick-federated-model/1"
    run_id: Annotated[str, Field(min_length=1, max_length=200)]
    task: Name
    version: Annotated[str, Field(pattern=HEX_32_BYTES)]
    """By which requests and the members' tables name the model."""
    bias: float
    """Log-odds of default of an entity whose partial scores are all zero: that of the training population."""
    pdo_points: Annotated[float, Field(gt=0)]
    """Score points that double the odds good:bad."""
    base_points: float
    base_odds: Annotated[float, Field(gt=0)]
    """Odds good:bad at `base_points`."""
    reason_codes: Annotated[tuple[ReasonCode, ...], Field(min_length=1, max_length=2000)]
    """The catalogue, in the order of the votes."""

    @model_validator(mode="after")
    def _codes_differ(self) -> FederatedModel:
        if len(set(self.reason_codes)) != len(self.reason_codes):
            raise ValueError("reason_codes: expected every reason code once, found one repeated; remove the duplicate")
        return self

    def probability(self, log_odds_64ths: int) -> float:
        """Probability of default, in (0, 1).

        Args:
            log_odds_64ths: Sum of the partial scores, in 1/64 log-odds of default.
        """
        log_odds = self._log_odds(log_odds_64ths)
        return 1.0 / (1.0 + math.exp(-log_odds)) if log_odds > 0 else math.exp(log_odds) / (1.0 + math.exp(log_odds))

    def points(self, log_odds_64ths: int) -> float:
        """Score points: more are better, `pdo_points` double the odds good:bad."""
        factor = self.pdo_points / math.log(2.0)
        return self.base_points + factor * (-self._log_odds(log_odds_64ths) - math.log(self.base_odds))

    def _log_odds(self, log_odds_64ths: int) -> float:
        return self.bias + log_odds_64ths / STEPS_PER_LOG_ODDS

    def save(self, path: Path) -> None:
        """Write it as JSON, all of it or nothing.

        Raises:
            SettingsRefused: It cannot be written.
        """
        content = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False)
        write_replacing(path, content.encode() + b"\n")


def load_federated_model(path: Path) -> FederatedModel:
    """Read what `FederatedModel.save` wrote: the file, or the folder of its run.

    Raises:
        SettingsRefused: One sentence about the first problem.
    """
    if path.is_dir():
        path /= FILE_NAME
    content = read_bounded(path, SettingsRefused, MAX_FILE_BYTES)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SettingsRefused(
            f"{shown_path(path)}: expected the record of a federated model, found something else; {_HINT}."
        )
    if isinstance(found.get("reason_codes"), list):
        found["reason_codes"] = tuple(found["reason_codes"])
    return parse_model(FederatedModel, found, shown_path(path), SettingsRefused, _HINT)
