"""`tallystick match`: whether order, payment and logistics agree on a document, and whether it is financed already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from policies.closed_model import shown, shown_path
from policies.documents import DEFAULT_REQUIRED, FIELDS, KINDS, TASK, VERSION, match_of
from policies.errors import SettingsRefused
from policies.token_key import load_token_key
from tallystick.gateway_client import (
    Ca,
    Caller,
    Cert,
    Gateway,
    GrantFile,
    Key,
    Purpose,
    TokenKeyFile,
    Tokens,
    require_covered,
    tokens_of_hex,
)

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)


@app.command(
    epilog="Example: tallystick match --gateway platform.example:8444 --ca consortium-ca.crt --cert platform.crt"
    " --grant invoices.grant --json"
)
def match(
    gateway: Gateway = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    grant: GrantFile = None,
    purpose: Purpose = None,
    documents: Annotated[
        Path | None,
        typer.Option("--in", help=f"CSV with columns {', '.join(FIELDS)}, with --token-key.", show_default=False),
    ] = None,
    token_key: TokenKeyFile = None,
    token: Tokens = None,
    require: Annotated[str, typer.Option(help="Kinds of evidence that make a match, separated by commas.")] = ",".join(
        DEFAULT_REQUIRED
    ),
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the gateway.", min=0.1)] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")] = False,
) -> None:
    """Match documents: `matched`, `already financed` or `not matched`; not by whom, and not how often.

    Of everything that the grant covers, or of the documents that --in or --token name.
    """
    required = _required(require)
    caller = Caller.of_options(gateway, ca, cert, key, grant, purpose)
    named = {found.hex(): found for found in tokens_of_hex(token or ())}
    if documents is not None:
        if token_key is None:
            raise typer.BadParameter("expected --token-key to name documents by, found none; or use --token")
        named |= tokens_of_documents(documents, token_key)
    named = named or {found.hex(): found for found in caller.grant.places}
    require_covered(caller, list(named.values()))
    different = list(dict.fromkeys(named.values()))
    reply = caller.ask(different, TASK, VERSION, timeout)
    evidence = np.frombuffer(reply.evidence, dtype=np.uint8).reshape(len(different), len(KINDS)) != 0
    places = {found: place for place, found in enumerate(different)}
    rows = []
    for name, found in named.items():
        result, missing = match_of(evidence[places[found]].tolist(), required)
        rows.append({"document": name, "result": result, "missing": list(missing)})
    if as_json:
        print(
            json.dumps(
                {"degraded": reply.degraded, "absent_roles": list(reply.silent_roles), "documents": rows},
            )
        )
        return
    for row in rows:
        missing_text = f" (nobody has: {', '.join(row['missing'])})" if row["result"] == "not matched" else ""
        print(f"{row['document']}  {row['result']}{missing_text}")
    if reply.degraded:
        print(f"degraded       a member was absent of: {', '.join(reply.silent_roles)}; its evidence is not in this")


def tokens_of_documents(path: Path, token_key: Path) -> dict[str, bytes]:
    """Name -> fingerprint of every row; rows are named by their number and the document's.

    Raises:
        UserError: The file cannot be read, or a row is no document.
    """
    from nodes.column_values import ids_of
    from nodes.sources.csv_file import read_csv_rows
    from policies.documents import DocumentRefused, document_token

    key, frame = load_token_key(token_key), read_csv_rows(path)
    absent = [name for name in FIELDS if name not in frame.columns]
    if absent:
        raise SettingsRefused(
            f"{shown_path(path)}: expected the columns {', '.join(FIELDS)}, found {', '.join(absent)} missing; add"
            " them."
        )
    columns = [ids_of(frame[name]) for name in FIELDS]
    found = {}
    for number, values in enumerate(zip(*columns, strict=True), start=1):
        fields = {name: value or "" for name, value in zip(FIELDS, values, strict=True)}
        try:
            found[f"{number}:{fields['number']}"] = document_token(key, fields)
        except DocumentRefused as refused:
            raise SettingsRefused(f"{shown_path(path)}, row {number}: {refused}") from None
    return found


def _required(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise typer.BadParameter(f"--require: expected kinds of {', '.join(KINDS)}, found {shown(text)}")
    return kinds
