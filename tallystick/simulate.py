"""`tallystick simulate`: a whole consortium in this process, as a scenario file says."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from simulations.simulate import SimulationResult

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog="Example: tallystick simulate simulations/scenarios/small.toml --out out/small")
def simulate(
    scenario: Annotated[Path, typer.Argument(metavar="FILE", help="The scenario; simulations/scenarios has examples.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the results; a new one under out/ by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON instead of a table.")] = False,
) -> None:
    """Run the protocol with all members in one process; settings, metrics and plots come out.

    The members' code, keys and messages are those of `tallystick node run`; only the network is a call.
    """
    # Members take turns on small matrices, where a second BLAS thread only waits; read when numpy is first imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    from policies.errors import UserError
    from simulations.scenario import load_scenario
    from simulations.simulate import simulate as run
    from tallystick.progress import RunProgress

    asked = load_scenario(scenario)
    moment = f"{dt.datetime.now():%Y%m%d-%H%M%S}"  # noqa: DTZ005 - local time
    folder = out or Path("out") / f"simulate-{asked.name}-{moment}"
    with RunProgress(asked.training.rounds, plain=as_json) as progress:
        result = run(scenario, folder, announce=(lambda _: None) if as_json else progress.say, on_event=progress.show)
    if as_json:
        print(json.dumps(result.metrics))
    else:
        _show(result)
    if result.failure is not None:
        raise UserError(f"The simulated run failed: {result.failure}")


def _show(result: SimulationResult) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title="Sums", title_justify="left", box=None, pad_edge=False)
    for heading in ("sum", "purpose", "members", "dropped", "loss", "seconds"):
        table.add_column(heading, justify="left" if heading in {"purpose", "dropped"} else "right")
    for line in result.sums:
        loss = line.statistics.get("loss")
        table.add_row(
            str(line.k),
            line.purpose,
            str(line.survivors),
            _few(line.dropped),
            "" if loss is None else f"{loss:.6f}",
            f"{line.seconds:.2f}",
        )
    console.print()
    console.print(table)
    _show_quality(console, result)
    phases = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items())
    console.print(f"{'seconds':<13} {phases}", soft_wrap=True)
    console.print(f"{'results':<13} {result.folder}", soft_wrap=True)


def _show_quality(console: Console, result: SimulationResult) -> None:
    from rich.table import Table

    if not result.quality:
        return
    table = Table(title="On the common hold-out", title_justify="left", box=None, pad_edge=False)
    for heading in ("model", "AUC", "KS", "Brier", "federated minus this", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    if not result.rows:
        quality = result.quality
        table.add_row("federated", f"{quality['auc']:.4f}", f"{quality['ks']:.4f}", f"{quality['brier']:.5f}", "", "")
    for row in result.rows:
        table.add_row(
            row.model,
            f"{row.auc:.4f}",
            f"{row.ks:.4f}",
            f"{row.brier:.5f}",
            "" if row.auc_gap is None else f"{row.auc_gap:+.5f}",
            "" if row.auc_gap_low is None else f"{row.auc_gap_low:+.5f} {row.auc_gap_high:+.5f}",
        )
    console.print()
    console.print(table)
    console.print()


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"
