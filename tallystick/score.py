"""`tallystick score`: score rows with a released model, or entities with one that no single party holds."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from tallystick.gateway_client import Ca, Caller, Cert, Gateway, GrantFile, Key, Purpose, TokenKeyFile, Tokens

if TYPE_CHECKING:
    from models.artefact import Model
    from models.scoring import Scores

MAX_REASONS = 4

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="Example: tallystick score --model runs/run-1 --in rows.csv --out scores.csv. Example: tallystick score"
    " --gateway platform.example:8444 --ca consortium-ca.crt --cert platform.crt --model runs/run-2 --grant"
    " seller-7.grant"
)
def score(  # noqa: PLR0917 - one argument for each option
    model: Annotated[
        Path,
        typer.Option(help="model.tallystick of a run, or its folder; with --gateway its federated_model.json."),
    ],
    rows: Annotated[
        Path | None,
        typer.Option(
            "--in",
            help="CSV with a header and one column for each feature; with --gateway identifiers, one a line.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV to write; replaced if it exists.", show_default=False)] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Column of the rows to copy into the scores, or of the identifiers.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="SHA-256 that the model must have.")] = None,
    gateway: Gateway = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    grant: GrantFile = None,
    purpose: Purpose = None,
    entity: Annotated[
        list[str] | None, typer.Option(help="An identifier, with --token-key; repeated.", show_default=False)
    ] = None,
    token: Tokens = None,
    token_key: TokenKeyFile = None,
    agreement: Annotated[
        Path | None, typer.Option(help="The agreement.toml: how identifiers are written.", show_default=False)
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the gateway.", min=0.1)] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary, or federated scores, as JSON.")] = False,
) -> None:
    """Score rows: PD, score points, points of each feature, and the reason codes that cost most.

    All rows are scored, or none is: a row that breaks the feature contract is named, and nothing is written.

    With --gateway the members score together, and nobody sees a part of it: PD, points, reasons, and which roles were
    absent, of everything that the grant covers, or of the entities that --entity, --token or --in name.
    """
    if gateway is not None:
        from tallystick.federated_score import Asked, score_by_gateway

        asked = Asked(tuple(entity or ()), rows, id_column, tuple(token or ()), token_key, agreement)
        caller = Caller.of_options(gateway, ca, cert, key, grant, purpose)
        score_by_gateway(caller, model, version, asked, out, timeout_s=timeout, as_json=as_json)
        return
    if rows is None or out is None:
        raise typer.BadParameter("expected --in and --out, or --gateway, found neither")
    from coordinator.api.model_source import model_from_path
    from models.scoring import score_frame
    from nodes.sources.csv_file import read_csv_rows
    from policies.closed_model import shown_path

    loaded = model_from_path(model, version)
    frame = read_csv_rows(rows)
    scores = score_frame(loaded, _numbers(frame, loaded))
    ids = None if id_column is None else _ids(frame, id_column)
    with _replaced_when_complete(out) as stream:
        _write(stream, scores, ids, id_column)
    mean_pd = float(scores.pd.mean()) if len(scores.pd) else None
    if as_json:
        summary = {"rows": len(scores.pd), "mean_pd": mean_pd, "model_version": loaded.version, "out": str(out)}
        print(json.dumps(summary))
    else:
        about = "" if mean_pd is None else f", mean PD {mean_pd:.4f}"
        print(f"{len(scores.pd)} rows scored by model {loaded.version[:12]}{about}: {shown_path(out)}")


def _numbers(frame: Any, model: Model) -> dict[str, Any]:
    """The model's columns as numbers; text that is none is refused with its row.

    Raises:
        ScoringInputError: A column is absent, or holds something that is no number.
    """
    from models.scoring import ScoringInputError
    from nodes.column_values import numbers_of

    columns: dict[str, Any] = {}
    for feature in model.features:
        if feature.name not in frame.columns:
            raise ScoringInputError(
                f"Expected a column {feature.name!r} in the rows, found none of that name; add it"
                " (empty fields, if the agreement allows a missing value)."
            )
        numbers = numbers_of(frame[feature.name])
        if numbers.not_numeric.any():
            row = int(numbers.not_numeric.argmax()) + 1
            raise ScoringInputError(
                f"column {feature.name!r}, row {row}: expected a decimal number, found something else; correct it"
                f" or leave the row out ({int(numbers.not_numeric.sum())} such rows)."
            )
        columns[feature.name] = numbers.as_float
    return columns


def _ids(frame: Any, id_column: str) -> list[str]:
    from models.scoring import ScoringInputError

    if id_column not in frame.columns:
        raise ScoringInputError(
            f"Expected the column {id_column!r} in the rows, found none of that name; correct --id-column."
        )
    return [str(value) for value in frame[id_column].fillna("")]


def _write(stream: IO[str], scores: Scores, ids: list[str] | None, id_column: str | None) -> None:
    writer = csv.writer(stream)
    features = [f"points_{name}" for name in scores.feature_names]
    reasons = [f"reason_{k}" for k in range(1, MAX_REASONS + 1)]
    named = [] if ids is None else [str(id_column)]
    writer.writerow(["row", *named, "pd", "score_points", "base_points", *features, *reasons])
    for k in range(len(scores.pd)):
        codes = [reason.reason_code for reason in scores.reasons(k, MAX_REASONS)]
        writer.writerow(
            [
                k + 1,
                *([] if ids is None else [ids[k]]),
                f"{scores.pd[k]:.8f}",
                f"{scores.points[k]:.2f}",
                f"{scores.base_points[k]:.2f}",
                *(f"{points:.2f}" for points in scores.contribution_points[k]),
                *codes,
                *[""] * (MAX_REASONS - len(codes)),
            ]
        )


@contextmanager
def _replaced_when_complete(path: Path) -> Iterator[IO[str]]:
    """Write beside the file and move it there at the end, so that no half a file is ever mistaken for scores.

    Raises:
        SettingsRefused: The folder does not exist or cannot be written to.
    """
    from policies.closed_model import shown_path
    from policies.errors import SettingsRefused

    try:
        if path.is_dir():
            raise SettingsRefused(f"{shown_path(path)}: expected a file to write, found a folder; name a file in it.")
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".scores-", suffix=".csv")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
                yield stream
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "the path is not valid"
        raise SettingsRefused(
            f"{shown_path(path)}: cannot be written ({reason}); check the folder and its permissions."
        ) from None
