"""How the signed label of a bin is shown: the same bin in digits that a person reads.

A label states edges exactly ("10981.3 to 1e+07"); a table wants "10 981 to 10 000 000", a bar has room for "11k–10M".
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])")
_SIGNIFICANT = 3


def table_label(label: str) -> str:
    """Numbers with three significant digits and at least their whole part, thousands apart by a thin space."""
    return _NUMBER.sub(lambda found: _in_full(float(found[0])), label)


def tick_label(label: str) -> str:
    """As short as a tick of a small plot wants it: "over 0 to 2500" is "0–2.5k"."""
    return _NUMBER.sub(lambda found: _compact(float(found[0])), label).replace(" to ", "–").removeprefix("over ")


def _in_full(value: float) -> str:
    if abs(value) >= 10 ** (_SIGNIFICANT - 1) or value.is_integer():
        return f"{value:,.0f}".replace(",", "\u2009")
    return f"{value:.{_SIGNIFICANT}g}"


def _compact(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.2g}{letter}" if abs(value) < 100 * size else f"{value / size:.0f}{letter}"
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
