"""What a measurement was made on: machine and versions, as every `bench` and every simulation writes them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

_PROGRAMS = ("flwr", "tenseal", "torch", "numpy", "cryptography", "grpcio", "protobuf")
_CPU_INFO = Path("/proc/cpuinfo")


def machine() -> dict[str, str | int]:
    """Processor, cores that this process may use, and system."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return {
        "processor": _processor(),
        "cores": len(affinity(0)) if affinity is not None else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that figures depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PROGRAMS}}


def _processor() -> str:
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"
