"""Scores that members give together: what to ask the gateway about, and how its answer is shown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from policies.agreement import load_agreement
from policies.closed_model import read_bounded, shown, shown_path
from policies.errors import SettingsRefused
from policies.federated_model import FederatedModel, load_federated_model
from policies.grant_files import write_replacing
from policies.token_key import load_token_key
from protos.masked_sum.request import MAX_ENTITIES
from protos.scoring.v1 import scoring_pb2 as pb
from tallystick.gateway_client import Caller, require_covered, tokens_of_hex

MAX_REASONS = 4
OUTCOMES: dict[int, str] = {
    pb.SCORED: "scored",
    pb.UNKNOWN_ENTITY: "unknown to every member",
    pb.ONE_MEMBER_ONLY: "known to one member only: withheld",
}


@dataclass(frozen=True)
class Asked:
    """What the command line names.

    Attributes:
        entities: Identifiers.
        rows: A file of identifiers.
        id_column: Its column, if it is a CSV.
        tokens: In hexadecimal.
        token_key: File of the members' key.
        agreement: Says how identifiers are written.
    """

    entities: tuple[str, ...]
    rows: Path | None
    id_column: str | None
    tokens: tuple[str, ...]
    token_key: Path | None
    agreement: Path | None

    def named(self, caller: Caller) -> dict[str, bytes]:
        """Name -> token: what is named, or everything that the grant covers.

        Raises:
            BadParameter: Identifiers without a key and an agreement.
            UserError: A file cannot be used, or an identifier is none.
        """
        identifiers: list[object] = [*self.entities]
        if self.rows is not None:
            identifiers += read_identifiers(self.rows, self.id_column)
        named = {token.hex(): token for token in tokens_of_hex(self.tokens)}
        if identifiers:
            if self.token_key is None or self.agreement is None:
                raise typer.BadParameter(
                    "expected --token-key and --agreement to find identifiers by, found one of them missing; callers"
                    " without the members' key name tokens, or ask for all that the grant covers"
                )
            from nodes.entity_tokens import EntityTokens

            id_type = load_agreement(self.agreement).entities.id_type
            tokens = EntityTokens(load_token_key(self.token_key), id_type).of(identifiers)
            malformed = [place for place, token in enumerate(tokens, start=1) if token is None]
            if malformed:
                raise SettingsRefused(
                    f"expected identifiers of type {id_type!r}, found {len(malformed)} that are none (the first is"
                    f" number {malformed[0]}); correct or remove them."
                )
            named |= {str(identifier): token for identifier, token in zip(identifiers, tokens, strict=True) if token}
        return named or {token.hex(): token for token in caller.grant.places}


def read_identifiers(path: Path, column: str | None) -> list[object]:
    """Identifiers of a file: one a line, or a column of a CSV.

    Raises:
        UserError: The file cannot be read, or has no such column.
    """
    if column is None:
        content = read_bounded(path, SettingsRefused, 300 * MAX_ENTITIES)
        try:
            lines = content.decode("utf-8").splitlines()
        except UnicodeDecodeError:
            raise SettingsRefused(
                f"{shown_path(path)}: expected identifiers in UTF-8, one a line, found other bytes;"
                " check that it is the right file."
            ) from None
        return [line.strip() for line in lines if line.strip()]
    from nodes.column_values import ids_of
    from nodes.sources.csv_file import read_csv_rows

    frame = read_csv_rows(path)
    if column not in frame.columns:
        raise SettingsRefused(
            f"{shown_path(path)}: expected the column {shown(column)}, found none of that name; correct --id-column."
        )
    return list(ids_of(frame[column]))


def score_by_gateway(
    caller: Caller,
    model_path: Path,
    version: str | None,
    asked: Asked,
    out: Path | None,
    *,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Ask, and show PD, points, reasons and absent roles.

    Raises:
        UserError: A file cannot be used, or there is no answer.
    """
    model = load_federated_model(model_path)
    if version is not None and version != model.version:
        raise SettingsRefused(
            f"{shown_path(model_path)}: expected model {shown(version)}, found {model.version}; use the right file."
        )
    named = asked.named(caller)
    different = list(dict.fromkeys(named.values()))
    if len(different) > MAX_ENTITIES:
        raise SettingsRefused(
            f"expected at most {MAX_ENTITIES} entities at once, found {len(different)}; ask in parts."
        )
    require_covered(caller, different)
    reply = caller.ask(different, model.task, model.version, timeout_s)
    places = {token: place for place, token in enumerate(different)}
    rows = [{"entity": name, **_shown(model, reply, places[token], len(different))} for name, token in named.items()]
    whole = {
        "model": model.version,
        "task": model.task,
        "degraded": reply.degraded,
        "absent_roles": list(reply.silent_roles),
    }
    if out is not None:
        _write(out, rows, reply)
    if as_json:
        print(json.dumps(whole | {"scores": rows}))
        return
    for row in rows if out is None else ():
        if row["pd"] is None:
            print(f"{row['entity']}  {row['outcome']}")
        else:
            reasons = ", ".join(row["reasons"]) or "none"
            print(f"{row['entity']}  PD {row['pd']:.4f}, {row['points']:.0f} points, reasons: {reasons}")
    if reply.degraded:
        print(f"degraded       a member was absent of: {', '.join(reply.silent_roles)}")
    if out is not None:
        print(f"{len(rows)} scores by model {model.version[:12]}: {shown_path(out)}")


def _shown(model: FederatedModel, reply: pb.ScoreBatchReply, place: int, count: int) -> dict[str, Any]:
    outcome = reply.outcomes[place]
    if outcome != pb.SCORED:
        return {"outcome": OUTCOMES.get(outcome, "not scored"), "pd": None, "points": None, "reasons": []}
    total = int(np.frombuffer(reply.log_odds_64ths, dtype="<i8")[place])
    votes = np.frombuffer(reply.votes, dtype=np.uint8).reshape(count, -1)[place]
    if len(votes) != len(model.reason_codes):
        raise SettingsRefused(
            f"expected a vote for each of the {len(model.reason_codes)} reason codes of the model's record, found"
            f" {len(votes)}; use the record of the model that the members serve."
        )
    order = np.argsort(-votes.astype(np.int64), kind="stable")
    reasons = [model.reason_codes[code] for code in order[:MAX_REASONS].tolist() if votes[code]]
    return {
        "outcome": OUTCOMES[pb.SCORED],
        "pd": round(model.probability(total), 8),
        "points": round(model.points(total), 2),
        "reasons": reasons,
    }


def _write(path: Path, rows: Sequence[dict[str, Any]], reply: pb.ScoreBatchReply) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    reasons = [f"reason_{k}" for k in range(1, MAX_REASONS + 1)]
    writer.writerow(["entity", "outcome", "pd", "score_points", *reasons, "absent_roles"])
    for row in rows:
        padded = row["reasons"] + [""] * (MAX_REASONS - len(row["reasons"]))
        pd = "" if row["pd"] is None else f"{row['pd']:.8f}"
        points = "" if row["points"] is None else f"{row['points']:.2f}"
        writer.writerow([row["entity"], row["outcome"], pd, points, *padded, " ".join(reply.silent_roles)])
    write_replacing(path, stream.getvalue().encode())
