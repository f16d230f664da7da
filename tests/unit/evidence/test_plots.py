"""The plots: valid images, the same bytes for the same figures, fit to be put into a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from io import BytesIO

import pytest
from PIL import Image

from models.plots import (
    ComparisonLine,
    calibration_plot,
    comparison_plot,
    histogram_plot,
    inline_svg,
    line_plot,
    loss_plot,
    roc_plot,
    shape_plot,
)
from policies.release import CalibrationBin, FeatureShape, HistogramBin, ShapeBin

SHAPE = FeatureShape(
    feature="age",
    role="bank",
    unit="years",
    bins=(
        ShapeBin(label="0 to 30", log_odds=0.4, points=-12),
        ShapeBin(label="30 to 120", log_odds=-0.4, points=12),
        ShapeBin(label="missing", missing=True, log_odds=0, points=0),
    ),
)
PLOTS = {
    "roc": lambda image: roc_plot(
        {"alone": ([0, 0.5, 1], [0, 0.7, 1]), "federated": ([0, 0.2, 1], [0, 0.8, 1])}, image=image
    ),
    "one_roc": lambda image: roc_plot({"federated": ([0, 0.2, 1], [0, 0.8, 1])}, image=image),
    "calibration": lambda image: calibration_plot(
        [
            CalibrationBin(pd_low=0, pd_high=0.1, mean_pd=0.03, observed_rate=0.04, rows=9),
            CalibrationBin(pd_low=0.1, pd_high=1),
        ],
        image=image,
    ),
    "nothing_to_calibrate": lambda image: calibration_plot([], image=image),
    "histogram": lambda image: histogram_plot(
        [HistogramBin(pd_low=0, pd_high=0.1, goods=90, bads=10), HistogramBin(pd_low=0.1, pd_high=1)], image=image
    ),
    "loss": lambda image: loss_plot([(1, 0.69), (2, 0.2)], image=image),
    "shape": lambda image: shape_plot(SHAPE, image=image),
    "comparison": lambda image: comparison_plot(
        [ComparisonLine("alone:bank-a", 0.85, 0.84, 0.86), ComparisonLine("federated", 0.86)], image=image
    ),
    "lines": lambda image: line_plot(
        {"sealed": ([1e4, 1e6], [0.01, 1.0]), "plain": ([1e4, 1e6], [0.005, 0.5])},
        title="Sealed sum",
        x_label="values",
        y_label="seconds",
        log_x=True,
        log_y=True,
        image=image,
    ),
}


@pytest.mark.parametrize("name", PLOTS)
def test_svg_is_well_formed_and_the_same_each_time(name):
    first = PLOTS[name]("svg")

    assert first == PLOTS[name]("svg")
    assert ET.fromstring(first).tag == "{http://www.w3.org/2000/svg}svg"
    assert b"dc:date" not in first


@pytest.mark.parametrize("name", PLOTS)
def test_png_is_an_image_of_some_size(name):
    with Image.open(BytesIO(PLOTS[name]("png"))) as image:
        assert image.format == "PNG"
        assert min(image.size) > 150


def test_inline_plots_do_not_share_ids_and_follow_the_page_colours():
    first = inline_svg(PLOTS["shape"]("svg"), name="one", description='a "shape" < b & c')
    second = inline_svg(PLOTS["shape"]("svg"), name="two", description="another")

    assert first.startswith('<svg role="img" aria-label="a &quot;shape&quot; &lt; b &amp; c"')
    found = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert not found[0] & found[1]
    used = set(re.findall(r"url\(#([^)]+)\)", first)) | set(re.findall(r'xlink:href="#([^"]+)"', first))
    assert used <= found[0]
    assert "var(--accent" in first
    assert not re.search(r"(?<!, )#0b7a6f", first), "a colour that does not follow the page"


def test_text_in_a_plot_stays_text():
    assert b"score points" in PLOTS["shape"]("svg")
    assert "30–120".encode() in PLOTS["shape"]("svg")


def test_label_cannot_become_markup():
    hostile = SHAPE.model_copy(update={"bins": (ShapeBin(label="<script>x</script>", log_odds=0, points=1),)})

    assert b"<script" not in shape_plot(hostile)
