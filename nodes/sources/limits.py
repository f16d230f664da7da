"""How much a data source may hold, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass

_GIB = 1 << 30


@dataclass(frozen=True)
class SourceLimits:
    """Bounds that keep a wrong file or query from filling the memory of a node.

    Attributes:
        max_file_bytes: Largest file that is opened.
        max_rows: Most rows; a source with more is refused, never cut off silently.
        max_columns: Most columns, whether the contract needs them or not.
        max_frame_bytes: Largest frame in memory; a small compressed file can unpack to any size.
        connect_timeout_s: How long a database may take to accept a connection.
        query_timeout_s: How long a query may take.
    """

    max_file_bytes: int = 2 * _GIB
    max_rows: int = 5_000_000
    max_columns: int = 1_000
    max_frame_bytes: int = 4 * _GIB
    connect_timeout_s: int = 10
    query_timeout_s: int = 300


DEFAULT_LIMITS = SourceLimits()
