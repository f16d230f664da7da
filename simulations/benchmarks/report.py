"""The one form in which every benchmark writes its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policies.errors import UserError
from simulations.machine import machine, versions


def report(bench: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`{"bench", "machine", "versions", "results"}`; results are flat objects."""
    return {"bench": bench, "machine": machine(), "versions": versions(), "results": [dict(row) for row in results]}


def write_report(path: Path, bench: str, results: Sequence[Mapping[str, Any]]) -> None:
    """Write a report as JSON.

    Raises:
        UserError: The file cannot be written.
    """
    write(path, (json.dumps(report(bench, results), indent=1) + "\n").encode())


def write(path: Path, data: bytes) -> None:
    """Write a result, making its folder.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as problem:
        raise UserError(f"{path}: cannot be written ({problem.strerror}); name another file.") from None
