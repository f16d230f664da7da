"""What an operator asks of the coordinator: one run, not yet proposed to anybody."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from policies.errors import UserError
from policies.proposal import MethodSettings


class RequestRefused(UserError):
    """A run request that cannot become a proposal."""


class RunRequest(BaseModel):
    """A run as `tallystick train` queues it; the coordinator adds run id, nonce and signatures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    further_tasks: tuple[str, ...] = ()
    """More tasks of a vertical run, on the same alignment."""
    purpose: str
    settings: MethodSettings
    members: tuple[str, ...] = ()
    """Cohort; empty takes every member of the task's label role."""
    wait_online_s: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """How long to wait for the cohort to connect before the run fails."""

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Parse what `to_bytes` wrote.

        Raises:
            RequestRefused: A field is missing, unknown or out of range.
        """
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "request"
            raise RequestRefused(f"The run request is malformed at {where}: {first['msg']}; correct it.") from None

    def to_bytes(self) -> bytes:
        """JSON for the coordinator's store."""
        return self.model_dump_json().encode()
