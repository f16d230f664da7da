"""`tallystick train`: propose a run to the consortium and follow it."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="Example: tallystick train --settings coordinator.toml --task credit --purpose credit-model-training"
)
def train(
    settings: Annotated[Path, typer.Option(help="The coordinator's settings file.")],
    task: Annotated[str, typer.Option(help="Task of the agreement; several, comma-separated, in a vertical run.")],
    purpose: Annotated[str, typer.Option(help="Purpose that the agreement allows for the task.")],
    method: Annotated[
        str, typer.Option(help="newton, fedavg, fedprox, fedadam; vertical; alignment trains nothing.")
    ] = "newton",
    rounds: Annotated[int, typer.Option(help="Training rounds; newton stops where it has converged.")] = 12,
    local_epochs: Annotated[int, typer.Option(help="Passes over a member's rows per round (fed*).")] = 1,
    batch_size: Annotated[int, typer.Option(help="Rows of a local step (fed*).")] = 1024,
    learning_rate: Annotated[float, typer.Option(help="Of the local optimiser (fed*).")] = 0.02,
    seed: Annotated[int, typer.Option(help="Public seed of initial weights and shuffles.")] = 0,
    passes: Annotated[int, typer.Option(help="Gradient passes over the labels (vertical).")] = 4,
    pairs: Annotated[int, typer.Option(help="Pairwise terms within a role, at most (vertical).")] = 0,
    wait_online_s: Annotated[float, typer.Option(help="Seconds to wait for the cohort to connect.")] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a progress bar.")] = False,
) -> None:
    """Propose a run, and show its progress until it has finished.

    The coordinator named by the settings must be running (`tallystick coordinator run`) on this machine.
    """
    from pydantic import ValidationError

    from coordinator.follow import follow
    from coordinator.request import RequestRefused, RunRequest
    from coordinator.settings import load_coordinator_settings
    from coordinator.store import CoordinatorStore
    from policies.closed_model import shown_path
    from policies.errors import UserError
    from policies.proposal import MethodSettings
    from policies.state_lock import is_served
    from tallystick.progress import RunProgress

    tasks = [name.strip() for name in task.split(",")]
    try:
        request = RunRequest(
            task=tasks[0],
            further_tasks=tuple(tasks[1:]),
            purpose=purpose,
            settings=MethodSettings.model_validate(
                {
                    "method": method,
                    "rounds": rounds,
                    "local_epochs": local_epochs,
                    "batch_size": batch_size,
                    "learning_rate": learning_rate,
                    "seed": seed,
                    "passes": passes,
                    "pairs": pairs,
                }
            ),
            wait_online_s=wait_online_s,
        )
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]).replace("_", "-")
        raise RequestRefused(f"--{where}: {first['msg'].lower()}; correct the option and run again.") from None
    state_dir = load_coordinator_settings(settings).state_dir
    if not is_served(state_dir):
        raise UserError(
            f"Expected a running coordinator for {shown_path(settings)}, found none; start it with"
            " `tallystick coordinator run` on this machine, then propose the run again."
        )
    store = CoordinatorStore(state_dir)
    run_id = f"run-{secrets.token_hex(6)}"
    store.queue_run(run_id, request.to_bytes())
    steps = passes * len(tasks) if method == "vertical" else rounds
    with RunProgress(steps, plain=as_json) as progress:
        for event in follow(store, run_id):
            if as_json:
                typer.echo(json.dumps({"run_id": run_id, "at": event.at, "event": event.event, **event.details}))
            else:
                progress.show(event.event, event.details)
            if event.event == "failed":
                raise UserError(f"Run {run_id} failed: {event.details.get('reason', 'see the coordinator log')}")
