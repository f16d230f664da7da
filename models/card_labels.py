"""How a bin of a feature reads in a table or under a bar."""

from __future__ import annotations


def bin_label(
    low: float | None, high: float | None, *, atom: bool = False, missing: bool = False, whole: bool, last: bool
) -> str:
    """Name a bin.

    Args:
        low: Smallest value in the bin; None = open.
        high: Its end, which belongs to the next bin unless this is the last; None = open.
        atom: The bin holds the value `low` alone.
        missing: The bin of rows without a value.
        whole: The feature takes whole numbers only, so "2 to 5" can mean both ends.
        last: The bin holds its upper end.

    Returns:
        For example "0", "2 to 4", "0.15 to 0.3", "12 500 to 20 000", "missing".
    """
    if missing:
        return "missing"
    if low is None:
        return "any" if high is None else f"up to {_number(high)}"
    if high is None:
        return f"{_number(low)} and more"
    if whole and not last:
        high -= 1
    if atom or low >= high:
        return _number(low)
    return f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    """Three significant digits, thousands apart by a thin space: 0.0235, 14.2, 12 500."""
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}".replace(",", "\u2009")
    return f"{value:.3g}"
