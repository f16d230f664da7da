"""The one form in which every benchmark writes its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from policies.errors import UserError
from simulations.machine import machine, versions


def report(
    bench: str,
    results: Sequence[Mapping[str, Any]],
    further: Mapping[str, Sequence[Mapping[str, Any]]] = MappingProxyType({}),
) -> dict[str, Any]:
    """`{"bench", "machine", "versions", "results"}`; results are flat objects.

    Args:
        bench: Which one.
        results: Its figures.
        further: Other tables by name, whose rows are not to be taken for results.
    """
    tables = {name: [dict(row) for row in rows] for name, rows in {"results": results, **further}.items()}
    return {"bench": bench, "machine": machine(), "versions": versions(), **tables}


def write_report(
    path: Path,
    bench: str,
    results: Sequence[Mapping[str, Any]],
    further: Mapping[str, Sequence[Mapping[str, Any]]] = MappingProxyType({}),
) -> None:
    """Write a report as JSON, see `report`.

    Raises:
        UserError: The file cannot be written.
    """
    write(path, (json.dumps(report(bench, results, further), indent=1) + "\n").encode())


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
