"""`tallystick bench`: measure, show a table, and write the figures as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)
Json = Annotated[Path | None, typer.Option("--json", help="Write the figures as JSON.")]
Plot = Annotated[
    Path | None, typer.Option("--plot", help="Write a line plot over values as SVG, and one over members beside it.")
]

_LOG_COLUMNS = 120
"""In a file nothing has to be narrow."""


@app.callback()
def bench() -> None:
    """Measure, and write the figures as JSON.

    Example: tallystick bench sealed-sum --json out/sealed-sum.json
    """


@app.command("sealed-sum", epilog="Example: tallystick bench sealed-sum --json out/sealed-sum.json --plot out/sum.svg")
def sealed_sum(
    json_path: Json = None,
    plot: Plot = None,
    nodes: Annotated[int, typer.Option(min=3, max=50, help="Cohort of the size rows.")] = 5,
    values: Annotated[str, typer.Option(help="Vector lengths, comma-separated.")] = "10000,100000,1000000",
    cohorts: Annotated[str, typer.Option(help="Cohorts of the scaling rows, comma-separated.")] = "3,5,10,20,50",
) -> None:
    """What one sealed sum costs each party: bytes, processor time, and whether it is exact."""
    from simulations.benchmarks import sealed_sum as measured
    from simulations.benchmarks.report import write, write_report
    from simulations.benchmarks.sealed_sum_plot import plot as draw

    lengths = _numbers("--values", values, low=1, high=10_000_000)
    sizes = _numbers("--cohorts", cohorts, low=3, high=50)
    with _lines() as progress:
        rows = measured.run(nodes, lengths, sizes, progress=progress)
    _show("One sealed sum", rows)
    if json_path is not None:
        write_report(json_path, "sealed-sum", rows)
    if plot is not None:
        write(plot, draw(rows, nodes, "values"))
        by_cohort = plot.with_stem(f"{plot.stem}-by-cohort")
        write(by_cohort, draw(rows, nodes, "nodes"))
        print(f"plots         {plot}, {by_cohort}")


@app.command("round", epilog="Example: tallystick bench round --json out/round.json")
def training_round(
    json_path: Json = None,
    data: Annotated[str, typer.Option(help="gmsc (Give Me Some Credit, fetched once) or synthetic.")] = "gmsc",
    parameters: Annotated[str, typer.Option(help="Sizes of the towers, comma-separated.")] = "10000,1000000",
    rounds: Annotated[int, typer.Option(min=2, max=50, help="Rounds of a run; the first one only warms up.")] = 4,
    repeats: Annotated[
        int,
        typer.Option(min=1, max=20, help="Turns of a sealed and a plain run; three times as many for small towers."),
    ] = 2,
    keep: Annotated[
        Path | None, typer.Option(help="Folder for keys, state and logs; a temporary one if left out.")
    ] = None,
) -> None:
    """A sealed training round beside the same round without sealing: five node processes over mutual TLS."""
    import tempfile

    from simulations.benchmarks import round as measured
    from simulations.benchmarks.report import write_report
    from simulations.datasets import load_data_set
    from simulations.dealing import DEMO_SHARES

    sizes = _numbers("--parameters", parameters, low=100, high=10_000_000)
    with tempfile.TemporaryDirectory(prefix="tallystick-bench-") as scratch, _lines() as progress:
        rows = measured.run(
            load_data_set(data),
            keep or Path(scratch),
            shares=DEMO_SHARES,
            parameters=sizes,
            rounds=rounds,
            repeats=repeats,
            progress=progress,
        )
    _show(
        "One training round",
        rows,
        ("nodes", "parameters", "sealed_s", "plain_s", "ratio", "exchanges", "bytes_per_node"),
    )
    _show_turned("By phase", rows)
    if json_path is not None:
        write_report(json_path, "round", rows)


@app.command("alignment", epilog="Example: tallystick bench alignment --json out/alignment.json")
def alignment(
    json_path: Json = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a line plot over identifiers as SVG.")] = None,
    sizes: Annotated[
        str, typer.Option(help="Identifiers of label holder and feature holder, comma-separated.")
    ] = "10000x10000,50000x50000,150000x150000,1000000x100000",
) -> None:
    """Find the sellers that two members both know: two node processes and a relay over mutual TLS."""
    from simulations.benchmarks import alignment as measured
    from simulations.benchmarks.alignment_plot import plot as draw
    from simulations.benchmarks.report import write, write_report

    with _lines() as progress:
        rows = measured.run(measured.parse_sizes(sizes), progress=progress)
    _show(
        "One alignment",
        rows,
        ("left", "right", "common", "seconds", "peak_rss_mb", "wire_mb", "exchanges", "exact"),
    )
    if json_path is not None:
        write_report(json_path, "alignment", rows)
    if plot is not None:
        write(plot, draw(rows))


@app.command("vertical", epilog="Example: tallystick bench vertical --json out/vertical.json --plot out/vertical.svg")
def vertical(
    json_path: Json = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="Measure how costs grow too, and write line plots as SVG: over rows, and beside it over features, "
            "parties and members of a role.",
        ),
    ] = None,
    cases: Annotated[
        str, typer.Option(help="Data sets, among how many roles, and how many rows; comma-separated.")
    ] = "uci_default:2,uci_default:3,gmsc:3,olist:3",
    pairwise: Annotated[str, typer.Option(help="Pairwise terms within roles: off, on or both.")] = "both",
) -> None:
    """Train over columns that several parties hold: a process a party over mutual TLS, all protections on."""
    from simulations.benchmarks import vertical as measured
    from simulations.benchmarks.report import write, write_report
    from simulations.benchmarks.vertical_plot import plot as draw

    if pairwise not in {"off", "on", "both"}:
        raise typer.BadParameter("expected off, on or both", param_hint="--pairwise")
    chosen = {"off": (False,), "on": (True,), "both": (False, True)}[pairwise]
    growth = {} if plot is None else measured.GROWTH
    with _lines() as progress:
        figures = measured.run(measured.parse_cases(cases), pairwise=chosen, growth=growth, progress=progress)
    reached = ("data", "task", "parties", "pairwise", "auc", "auc_pooled", "auc_alone")
    costs = ("data", "parties", "pairwise", "align_s", "training_s", "train_s", "peak_rss_mb", "wire_mb")
    _show("What one vertical training reaches", figures.results, reached)
    _show("What it costs", figures.results, costs)
    further = {"growth": figures.growth} if figures.growth else {}
    if json_path is not None:
        write_report(json_path, "vertical", figures.results, further)
    if plot is not None:
        grown = ("by", "parties", "rows", "features", "align_s", "training_s", "train_s", "peak_rss_mb", "wire_mb")
        _show("How its costs grow", figures.growth, grown)
        files = {by: plot if by == "rows" else plot.with_stem(f"{plot.stem}-by-{by}") for by in growth}
        for by, file in files.items():
            write(file, draw(figures.growth, by))
        print(f"plots         {', '.join(str(file) for file in files.values())}")


@app.command("scoring", epilog="Example: tallystick bench scoring --json out/scoring.json")
def scoring(
    json_path: Json = None,
    nodes: Annotated[str, typer.Option(help="Numbers of node processes, multiples of three.")] = "3,6,12",
    requests: Annotated[int, typer.Option(min=20, help="Requests of each row of one and of many clients.")] = 500,
    kill_requests: Annotated[
        int, typer.Option(min=0, help="Requests of the row in which nodes are killed and come back; 0 leaves it out.")
    ] = 100_000,
) -> None:
    """Score sellers that nobody may look up alone: node processes and a gateway over mutual TLS.

    Every answer is checked against the computation on pooled data. With its 100,000 requests the row with kills takes
    some ten minutes.
    """
    from simulations.benchmarks import scoring as measured

    counts = _numbers("--nodes", nodes, low=3, high=48)
    if any(count % 3 for count in counts):
        raise typer.BadParameter("expected multiples of three, one for each role", param_hint="--nodes")
    with _lines() as progress:
        rows = measured.command(
            json_path, progress=progress, nodes=counts, requests=requests, kill_requests=kill_requests
        )
    columns = ("nodes", "clients", "batch", "p50_ms", "p99_ms", "per_s", "degraded", "failed", "wrong", "ratio")
    _show("Federated scores", [{"ratio": "", **row} for row in rows], columns)


@app.command("decisions", epilog="Example: tallystick bench decisions --json out/decisions.json")
def decisions(
    json_path: Json = None,
    database: Annotated[
        str | None, typer.Option(help="URL of an empty database; a temporary SQLite file if left out.")
    ] = None,
    clients: Annotated[str, typer.Option(help="Callers at once, comma-separated.")] = "1,16,64",
    number: Annotated[int, typer.Option(min=100, max=1_000_000, help="Decisions a row.")] = 4_000,
) -> None:
    """Decisions a second with store and ledger on, beside a floor of one row committed alike."""
    import tempfile

    from simulations.benchmarks import decisions as measured
    from simulations.benchmarks.report import write_report

    counts = _numbers("--clients", clients, low=1, high=256)
    with tempfile.TemporaryDirectory(prefix="tallystick-bench-") as scratch, _lines() as progress:
        rows = measured.run(database, Path(scratch), counts, number, progress=progress)
    _show("Decisions taken for good", rows)
    if json_path is not None:
        write_report(json_path, "decisions", rows)


def _numbers(option: str, text: str, *, low: int, high: int) -> tuple[int, ...]:
    """Whole numbers of a comma-separated option."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(low <= number <= high for number in numbers):
        raise typer.BadParameter(f"expected whole numbers from {low} to {high}, separated by commas", param_hint=option)
    return tuple(dict.fromkeys(numbers))


@contextmanager
def _lines() -> Iterator[Callable[[str], None]]:
    """Says what is being measured: a spinner on a terminal, plain lines elsewhere. On stderr."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda sentence: console.print(sentence, soft_wrap=True)
        return
    with console.status("starting") as status:
        yield status.update


def _show(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    names = list(columns or rows[0])
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in names))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _LOG_COLUMNS)
    console.print(table)


def _show_turned(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line a figure, one column a row: for rows with many figures."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("figure")
    for row in rows:
        table.add_column(f"{row['parameters']:,} parameters", justify="right")
    for name in rows[0]:
        table.add_row(name, *(_cell(row[name]) for row in rows))
    Console(highlight=False).print(table)


def _cell(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        case _:
            return str(value)
