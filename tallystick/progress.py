"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

SENTENCES = {
    "waiting": "waiting for members",
    "cosigned": "co-signed by {cosigner}",
    "joined": "{members} members accepted the run",
    "keyed": "key epoch open, sealing key dealt by {dealer}",
    "opened": "sum {k} ({purpose}) over {survivors} members",
    "dropped": "sum {k}: {names} did not answer",
    "paused": "paused: {reason}",
    "resumed": "taken up again at sum {k}",
    "released": "model released, version {version}",
    "aligning": "aligning the entities of {pairs} pairs of members",
    "aligned": "{pairs} pairs aligned; how many entities are common stands in each feature holder's journal",
    "training": "training starts at {members} members",
    "pass": "{task}: pass {number} of {of}",
    "finished": "finished: AUC {auc}",
    "failed": "failed: {reason}",
}


class RunProgress:
    """Shows the events of one run."""

    def __init__(self, rounds: int, *, plain: bool = False) -> None:
        self._console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        if self._console.is_terminal and not plain:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("starting", total=rounds)
        self._plain = plain

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._console.print(sentence, highlight=False, soft_wrap=True)

    def show(self, event: str, details: dict[str, object]) -> None:
        """Show one event in words; unknown events are left out."""
        template = SENTENCES.get(event)
        if template is None:
            return
        if event == "finished" and "auc" not in details:
            template = "finished"  # nothing was trained
        sentence = template.format_map(_Missing(details))
        if self._bar is None:
            if not self._plain:
                self._console.print(sentence, highlight=False)
            return
        self._bar.update(self._task, description=sentence)
        if event == "pass" or (event == "opened" and details.get("purpose") == "train"):
            self._bar.advance(self._task)
        if event == "finished":
            self._bar.update(self._task, completed=self._bar.tasks[0].total)


class _Missing(dict[str, object]):
    """Lets a sentence stand where an event leaves out a detail."""

    def __missing__(self, key: str) -> str:
        return "?"
