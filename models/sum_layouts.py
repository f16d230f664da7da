"""Fields of the sums of a horizontal run: public ranges and resolutions, from public settings alone."""

from __future__ import annotations

from collections.abc import Sequence

from models.evaluation import FINE_BINS
from models.features import InputFeature
from models.grid import feature_grid
from protos.sealed_sum.layout import Field, Layout, limb_base

MAX_WEIGHT_RATIO_LOG2 = 20
LARGEST_LOSS = 64.0
"""Mean log-loss above which a member reports this value, in nats."""
_GRADIENT_STEP = 2.0**-28
"""The optimum is where the gradient vanishes, so it is summed finely; a rougher Hessian only bends the way there."""
_HESSIAN_STEP = 2.0**-20
_LOSS_STEP = 2.0**-16
_LOSS_PER_ROW = 16.0
_MOST_BITS = 24


def cells_of(features: Sequence[InputFeature]) -> list[int]:
    """Length of each feature's piece of the histogram: goods then bads per grid cell, missing values last of each."""
    return [2 * (feature_grid(feature).num_cells + 1) for feature in features]


def bins_layout(features: Sequence[InputFeature], max_rows: int) -> Layout:
    """The histograms of all features, one after the other in one field: a layout has room for few fields."""
    return Layout((Field("cells", sum(cells_of(features)), 0.0, float(max_rows), 1.0),))


def newton_layout(num_parameters: int, max_rows: int) -> Layout:
    """Summed loss, gradient and upper Hessian of the log-loss.

    Entries of a design matrix lie in [0, 1], so a row adds at most 1 to a gradient and 1/4 to a Hessian. The
    rounding moves the optimum by less than 1e-6 / ridge.
    """
    rows = float(max_rows)
    return Layout(
        (
            Field("loss", 1, 0.0, _LOSS_PER_ROW * rows, _LOSS_STEP),
            Field("gradient", num_parameters, -rows, rows, _GRADIENT_STEP),
            Field("hessian", num_parameters * (num_parameters + 1) // 2, 0.0, rows / 4, _HESSIAN_STEP),
        )
    )


def change_layout(num_parameters: int, clip: float, cohort_size: int, weight_ratio: int) -> Layout:
    """Weighted change of the parameters, at the finest resolution that one limb holds (23 bits for 5 members).

    `weight` is the member's weight over the smallest one: whoever's changes are in the sum, their weights are too,
    so the mean is right although nobody is told who contributed.
    """
    bits = min(_MOST_BITS, (limb_base(cohort_size) - 1).bit_length() - 1)
    return Layout(
        (
            Field("change", num_parameters, -clip, clip, 2.0 * clip * 2.0**-bits),
            Field("weight", 1, 0.0, float(weight_ratio), 1.0),
            Field("loss", 1, 0.0, LARGEST_LOSS, _LOSS_STEP),
        )
    )


def evaluation_layout(max_rows: int) -> Layout:
    """Goods and bads of the hold-out per fine bin of log-odds."""
    return Layout(
        (Field("goods", FINE_BINS, 0.0, float(max_rows), 1.0), Field("bads", FINE_BINS, 0.0, float(max_rows), 1.0))
    )
