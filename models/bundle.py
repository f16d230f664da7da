"""One file for arrays and their description: safetensors with canonical JSON inside, never pickle.

A file is accepted only when writing what was read gives the same bytes again, so that a hash of the file is a hash
of the model: there are no two encodings of one, and no room for anything that is not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from policies.errors import UserError

MAX_BUNDLE_BYTES = 256 * 1024 * 1024
MAX_HEADER_BYTES = 8 * 1024 * 1024
_KEY = "tallystick"
_DTYPES = {"F64", "F32", "I64"}

Tensor = np.ndarray[Any, np.dtype[Any]]


class ArtefactError(UserError):
    """Bytes that are not a model artefact, or not the one asked for."""


def canonical_json(value: Any) -> str:
    """Sorted keys, no spaces, UTF-8 as it is, no infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def pack(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Write a bundle; the same arguments give the same bytes.

    Args:
        description: JSON data.
        tensors: At least one array of float64, float32 or int64.
    """
    arrays = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    # One metadata key alone: safetensors does not fix the order of several.
    return bytes(save(arrays, metadata={_KEY: canonical_json(description)}))


def unpack(data: bytes) -> tuple[Any, dict[str, Tensor]]:
    """Read a bundle.

    Args:
        data: As written by `pack`, at most `MAX_BUNDLE_BYTES`.

    Returns:
        The description and the arrays; both still to be checked by whoever knows what they should be.

    Raises:
        ArtefactError: Anything that `pack` would not have written.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise ArtefactError(
            f"expected a model artefact of at most {MAX_BUNDLE_BYTES} bytes, found {len(data)};"
            " check that the file is the model"
        )
    header = _header(data)
    try:
        description = json.loads(header.pop("__metadata__")[_KEY])
        tensors = dict(load(data))
        for array in tensors.values():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise _malformed("a number that is not finite")
        again = pack(description, tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _malformed("contents that contradict its header") from error
    if again != data:
        raise _malformed("an encoding that is not canonical")
    return description, tensors


def _header(data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 10 or size > min(MAX_HEADER_BYTES, len(data) - 8):
        raise _malformed("another kind of file, or a part of one")
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        raise _malformed("a header that is not JSON") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__"), dict):
        raise _malformed("a header without a description")
    if set(header["__metadata__"]) != {_KEY} or len(header) < 2:
        raise _malformed("a header of another program")
    for name, entry in header.items():
        if name != "__metadata__" and (not isinstance(entry, dict) or entry.get("dtype") not in _DTYPES):
            raise _malformed("an array of an unknown type")
    return header


def _malformed(found: str) -> ArtefactError:
    return ArtefactError(
        f"expected a model artefact (safetensors with canonical JSON), found {found}; fetch the model again"
    )
