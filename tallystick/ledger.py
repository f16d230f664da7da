"""`tallystick ledger`: verify, show and export the ledger, and prove what it says."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from coordinator.decisions.store import DecisionStore
    from coordinator.ledger.checkpoints import Checkpointer
    from policies.ledger_keys import LedgerKeys

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)

Settings = Annotated[Path, typer.Option("--settings", help="coordinator.toml of the ledger's coordinator.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
AgreementPath = Annotated[
    Path | None, typer.Option("--agreement", help="The agreement whose keys are trusted.", show_default=False)
]


@app.callback()
def _ledger() -> None:
    """The ledger: an append-only log of every decision, co-signed by the members' nodes.

    Example: tallystick ledger verify ledger.jsonl --agreement agreement.toml
    """


@app.command(
    epilog="Example: tallystick ledger verify ledger.jsonl --agreement agreement.toml, or"
    " tallystick ledger verify --settings coordinator.toml"
)
def verify(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="An export or a proof, checked offline; else the stored decisions are.", show_default=False
        ),
    ] = None,
    agreement: AgreementPath = None,
    settings: Annotated[
        Path | None, typer.Option(help="Check the database of this coordinator.toml.", show_default=False)
    ] = None,
    database: Annotated[str | None, typer.Option(help="Check this database, by its URL.", show_default=False)] = None,
    witnesses: Annotated[
        int, typer.Option(min=0, help="How many members must have co-signed the newest co-signed checkpoint.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Check that nothing was changed: an exported file, a proof, or every stored decision; the first fault is named."""
    if (file is None) == (settings is None and database is None):
        raise typer.BadParameter("give a FILE, or --settings or --database")
    if file is None:
        _verify_database(settings, database, agreement, witnesses, as_json=as_json)
    elif _is_proof(file):
        _verify_proof(file, agreement, witnesses, as_json=as_json)
    else:
        _verify_export(file, agreement, witnesses, as_json=as_json)


@app.command(epilog="Example: tallystick ledger show --settings coordinator.toml --last 5")
def show(
    settings: Settings = Path("coordinator.toml"),
    entry: Annotated[int | None, typer.Option(min=0, help="Show this entry alone.", show_default=False)] = None,
    last: Annotated[int, typer.Option(min=0, max=10_000, help="How many entries to show, the newest last.")] = 10,
    as_json: Json = False,
) -> None:
    """Show the ledger's size, its newest co-signed checkpoint and its last entries."""
    with _opened(settings) as (store, checkpointer, _):
        from coordinator.ledger.log import Log

        cosigned = checkpointer.newest_cosigned()
        with store.reading() as connection:
            log = Log(connection)
            size = log.head().size
            begin, end = (max(0, size - last), size) if entry is None else (entry, entry + 1)
            entries = [(one.entry, json.loads(one.body)) for one in log.entries(begin, end)]
        if entry is not None and not entries:
            from policies.errors import UserError

            raise UserError(f"Expected an entry below the ledger's size {size}, found {entry}; choose one that it has.")
        if as_json:
            _print_json(
                {
                    "origin": store.origin,
                    "size": size,
                    "checkpoint": None if cosigned is None else cosigned.note.encode(),
                    "entries": [{"entry": number, "body": body} for number, body in entries],
                }
            )
            return
        print(f"ledger        {store.origin}")
        print(f"entries       {size}")
        print(f"co-signed     {'nothing yet' if cosigned is None else f'{cosigned.checkpoint.size} entries'}")
        for number, body in entries:
            rest = {key: value for key, value in body.items() if key not in {"at", "kind"}}
            print(f"{number:>8}  {body['at']}  {body['kind']:<10}  {_short(rest)}")


@app.command(epilog="Example: tallystick ledger export ledger.jsonl --settings coordinator.toml")
def export(
    file: Annotated[Path, typer.Argument(help="Where to write it.", show_default=False)],
    settings: Settings = Path("coordinator.toml"),
    as_json: Json = False,
) -> None:
    """Write the whole ledger into one file that anybody can verify offline; it holds no personal data."""
    from coordinator.ledger.export import export_lines

    lines = 0
    with _opened(settings) as (store, checkpointer, keys), _written(file) as stream:
        for line in export_lines(store, checkpointer, keys):
            stream.write(line)
            lines += 1
        size = checkpointer.newest().checkpoint.size
    if as_json:
        _print_json({"file": str(file), "entries": size, "lines": lines})
    else:
        print(f"Wrote {size} entries to {file}; check them with `tallystick ledger verify {file}`.")


@app.command(epilog="Example: tallystick ledger proof dec-0193... --settings coordinator.toml --out proof.json")
def proof(
    decision: Annotated[str, typer.Argument(help="The decision's id, or the number of an entry.", show_default=False)],
    settings: Settings = Path("coordinator.toml"),
    out: Annotated[Path | None, typer.Option(help="Write it here instead of printing it.", show_default=False)] = None,
    bare: Annotated[bool, typer.Option(help="Leave the decision itself out: the entry alone.")] = False,
) -> None:
    """Prove that a decision is in the ledger: for whoever may see that decision, who can check it offline."""
    from coordinator.decisions.errors import DecisionUnknown
    from coordinator.decisions.store import EVERY_TENANT
    from coordinator.ledger.proof_file import evidence

    with _opened(settings) as (store, checkpointer, _):
        stored = None if decision.isdigit() else store.decision(EVERY_TENANT, decision)
        if stored is None and not decision.isdigit():
            raise DecisionUnknown(decision)
        number = int(decision) if stored is None else stored.entry
        content = evidence(checkpointer.proof_for(number), None if bare else stored)
    if out is None:
        _print_json(content)
        return
    with _written(out) as stream:
        stream.write(json.dumps(content, indent=2, sort_keys=True).encode() + b"\n")
    print(f"Wrote the proof of entry {number} to {out}.")


def _verify_export(file: Path, agreement: Path | None, needed: int, *, as_json: bool) -> None:
    from coordinator.ledger.export_check import MAX_LINE_BYTES, verify_export

    with _read(file) as stream:
        report = verify_export(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), _keys_of(agreement))
    _require_witnesses(report.witnesses, needed)
    if as_json:
        _print_json(
            {
                "origin": report.keys.origin,
                "entries": report.size,
                "root": report.root.hex(),
                "kinds": report.kinds,
                "cosigned_entries": report.cosigned_size,
                "witnesses": report.witnesses,
                "keys": "agreement" if report.trusted else "file",
            }
        )
        return
    print(f"ledger        {report.keys.origin}")
    print(f"entries       {report.size}: {', '.join(f'{n} {kind}' for kind, n in sorted(report.kinds.items()))}")
    print(f"root          {report.root.hex()}")
    print(f"co-signed     {_witnessed(report.cosigned_size, report.witnesses)}")
    if not report.trusted:
        print("keys          the file's own: give --agreement to check that they are your consortium's")
    print("Every entry is what was signed.")


def _verify_proof(file: Path, agreement: Path | None, needed: int, *, as_json: bool) -> None:
    from coordinator.ledger.proof_file import verify_evidence

    keys = _keys_of(agreement)
    if keys is None:
        raise typer.BadParameter("a proof is checked against --agreement: without its keys it shows nothing")
    with _read(file) as stream:
        report = verify_evidence(stream.read(1 << 24), keys)
    _require_witnesses(report.witnesses, needed)
    if as_json:
        _print_json(
            {
                "origin": keys.origin,
                "entry": report.entry,
                "body": report.content.model_dump(),
                "checkpoint_entries": report.checkpoint.size,
                "witnesses": dict(report.witnesses),
                "decision": None if report.decision is None else dict(report.decision),
            }
        )
        return
    print(f"ledger        {keys.origin}")
    print(f"entry         {report.entry} of {report.checkpoint.size}: {report.content.kind}, {report.content.at}")
    if report.decision is not None:
        print(f"decision      {report.decision['id']}: {report.decision['outcome']}")
    print(f"co-signed     {_witnessed(report.checkpoint.size if report.witnesses else 0, report.witnesses)}")
    print(
        "The entry is in the ledger" + (", and the decision is the one that it commits to." if report.decision else ".")
    )


def _verify_database(
    settings: Path | None, database: str | None, agreement: Path | None, needed: int, *, as_json: bool
) -> None:
    from coordinator.database.connection import parse_url, shown_url
    from coordinator.database.migrate import open_existing
    from coordinator.ledger.audit import audit
    from coordinator.ledger.checkpoints import MARK_FILE
    from coordinator.ledger.high_water import HighWaterMark
    from policies.errors import UserError

    keys, signed = _keys_of(agreement), None
    if settings is not None:
        from coordinator.settings import load_coordinator_settings

        coordinator = load_coordinator_settings(settings)
        database = database or coordinator.database_url
        keys = keys or _keys_of(coordinator.agreement_path)
        if keys is not None:
            signed = HighWaterMark(coordinator.state_dir / MARK_FILE, keys.log).read()
    url = parse_url(database or "")
    engine = open_existing(url)
    try:
        with engine.connect() as connection:
            report = audit(connection, keys, signed)
    finally:
        engine.dispose()
    findings = [str(found) for found in report.findings]
    if as_json:
        _print_json(
            {
                "database": shown_url(url),
                "entries": report.size,
                "rows": report.rows,
                "root": report.root.hex(),
                "checkpoints": report.checkpoints,
                "cosigned_entries": report.cosigned_size,
                "witnesses": list(report.witnesses),
                "signatures": "checked" if keys is not None else "not checked",
                "findings": [{"entry": found.entry, "row": found.row, "what": found.what} for found in report.findings],
            }
        )
    else:
        print(f"database      {shown_url(url)}")
        print(f"entries       {report.size}, {report.rows} stored rows held against them")
        print(f"co-signed     {_witnessed(report.cosigned_size, dict.fromkeys(report.witnesses, 0))}")
        if keys is None:
            print("signatures    not checked: give --settings or --agreement")
        for line in findings[1:]:
            print(f"also          {line}")
    if findings:
        raise UserError(f"The stored decisions are not what the ledger says. {findings[0]}")
    _require_witnesses(dict.fromkeys(report.witnesses, 0), needed)
    if not as_json:
        print("Every stored decision is what the ledger says.")


@contextmanager
def _opened(settings: Path) -> Iterator[tuple[DecisionStore, Checkpointer, LedgerKeys]]:
    """The ledger of a coordinator, with the operator's key to sign its checkpoints."""
    from coordinator.database.connection import parse_url
    from coordinator.database.migrate import open_existing
    from coordinator.decisions.store import DecisionStore
    from coordinator.ledger.checkpoints import Checkpointer
    from coordinator.settings import load_coordinator_settings
    from policies.agreement import load_agreement
    from policies.key_files import load_identity_key
    from policies.ledger_keys import ledger_keys

    coordinator = load_coordinator_settings(settings)
    keys = ledger_keys(load_agreement(coordinator.agreement_path))
    open_existing(parse_url(coordinator.database_url)).dispose()
    store = DecisionStore.open(coordinator.database_url, origin=keys.origin)
    try:
        private = load_identity_key(coordinator.identity_key_path)
        yield store, Checkpointer(store, private, coordinator.state_dir), keys
    finally:
        store.close()


def _keys_of(agreement: Path | None) -> LedgerKeys | None:
    if agreement is None:
        return None
    from policies.agreement import load_agreement
    from policies.ledger_keys import ledger_keys
    from policies.signatures import verify_signatures

    loaded = load_agreement(agreement)
    verify_signatures(loaded, agreement)
    return ledger_keys(loaded)


def _is_proof(file: Path) -> bool:
    """A proof is one JSON object that says so; whatever else it may be is checked as an export."""
    from coordinator.ledger.proof_file import FORMAT

    with _read(file) as stream:
        try:
            content = json.loads(stream.read(1 << 20))
        except (ValueError, RecursionError):
            return False
    return isinstance(content, dict) and content.get("format") == FORMAT


@contextmanager
def _read(file: Path) -> Iterator[Any]:
    from policies.closed_model import shown_path
    from policies.errors import UserError

    try:
        stream = file.open("rb")
    except OSError as problem:
        raise UserError(f"{shown_path(file)}: cannot be read ({problem.strerror}); check the path.") from None
    with stream:
        yield stream


@contextmanager
def _written(file: Path) -> Iterator[Any]:
    """A new file, there under its name once it is whole."""
    from policies.closed_model import shown_path
    from policies.errors import UserError

    fresh = file.with_name(f".{file.name}.new")
    try:
        with fresh.open("wb") as stream:
            yield stream
        fresh.replace(file)
    except OSError as problem:
        raise UserError(f"{shown_path(file)}: cannot be written ({problem.strerror}); check the folder.") from None
    finally:
        fresh.unlink(missing_ok=True)


def _require_witnesses(witnesses: Mapping[str, int], needed: int) -> None:
    from policies.errors import UserError

    if len(witnesses) < needed:
        raise UserError(
            f"Expected a checkpoint that {needed} members have co-signed, found {len(witnesses)}"
            f" ({', '.join(sorted(witnesses)) or 'nobody'}); have the ledger witnessed, then export it again."
        )


def _witnessed(size: int, witnesses: Mapping[str, int]) -> str:
    if not witnesses:
        return "nothing: no member has co-signed it"
    times = [at for at in witnesses.values() if at]
    when = f", last {dt.datetime.fromtimestamp(max(times), dt.UTC):%Y-%m-%d %H:%M} UTC" if times else ""
    return f"{size} entries, by {', '.join(sorted(witnesses))}{when}"


def _short(body: Mapping[str, Any]) -> str:
    def short(value: object) -> str:
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        return f"{text[:12]}…" if len(text) > 40 else text

    return ", ".join(f"{key} {short(value)}" for key, value in sorted(body.items()))


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, sort_keys=True))
