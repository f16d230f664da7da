"""`tallystick agreement`: write, sign, check and show the contract of a consortium."""

from __future__ import annotations

import json
import secrets
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from policies.agreement import (
    COORDINATOR,
    Agreement,
    Feature,
    ModelTerms,
    Task,
    agreement_hash,
    load_agreement,
    parse_identity_key,
)
from policies.agreement_template import AgreementDraft, read_features, render_agreement
from policies.closed_model import one_line, shown, shown_path, validation_sentence
from policies.errors import AgreementRefused
from policies.key_files import identity_key_text, load_identity_key
from policies.presets import gmsc_features, gmsc_task, smallest_privacy_terms
from policies.signatures import sign_agreement, signature_report, verify_signatures

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)
AgreementPath = Annotated[Path, typer.Argument(help="The agreement.toml.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")]


class Example(StrEnum):
    """Ready-made feature contracts."""

    GMSC = "gmsc"


class Tower(StrEnum):
    """Forms of a tower."""

    ADDITIVE = "additive"
    NEURAL = "neural"


class Release(StrEnum):
    """Who gets the opened model."""

    MEMBERS = "members"
    PLATFORM = "platform"


@app.command()
def new(
    members: Annotated[list[str], typer.Option(help="id:role, repeated or separated by commas.", show_default=False)],
    example: Annotated[Example | None, typer.Option(help="A ready-made feature contract.")] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="CSV: role,name,type,unit,low,high,monotone,reason_code,missing_allowed.", show_default=False
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("agreement.toml"),
    name: Annotated[str, typer.Option(help="Name of the consortium.")] = "Our consortium",
    key: Annotated[
        list[str] | None,
        typer.Option(help="id=ed25519:..., also coordinator=ed25519:...; repeated.", show_default=False),
    ] = None,
    task: Annotated[str, typer.Option(help="Name of the task.")] = "credit",
    label: Annotated[str, typer.Option(help="Label column (1 is bad), with --features.")] = "defaulted",
    label_role: Annotated[str, typer.Option(help="Role that holds the label; the first member's by default.")] = "",
    horizon_months: Annotated[int, typer.Option(help="Horizon of the label, with --features.")] = 12,
    purpose: Annotated[str, typer.Option(help="What the model may be used for.")] = "credit-model-training",
    id_column: Annotated[str, typer.Option(help="Column that names a row.")] = "id",
    tower: Annotated[Tower, typer.Option(help="Form of the model.")] = Tower.ADDITIVE,
    max_colluders: Annotated[int, typer.Option(help="Members that may collude.", min=0)] = 1,
    release: Annotated[Release, typer.Option(help="Who gets the opened model.")] = Release.MEMBERS,
) -> None:
    """Write a commented agreement.toml to start from.

    Example: tallystick agreement new --members bank-a:bank,bank-b:bank,bank-c:bank --example gmsc
    """
    roster = _roster(members)
    role = label_role or roster[0][1]
    try:
        planned = Task(name=task, label=label, label_role=role, horizon_months=horizon_months, purposes=(purpose,))
        draft = AgreementDraft(
            name=name,
            members=roster,
            identity_keys=_keys(key or (), {member_id for member_id, _ in roster}),
            features=_contract(example, features, role),
            tasks=(gmsc_task(role) if example else planned,),
            model=ModelTerms(
                tower=tower.value, hidden_units=() if tower is Tower.ADDITIVE else (32, 16), ridge=1e-3, smoothness=1e-3
            ),
            privacy=smallest_privacy_terms(len(roster), max_colluders),
            release_policy=release.value,
            id_column=id_column,
            holdout_key=secrets.token_bytes(32),
        )
    except ValidationError as problem:
        raise AgreementRefused(
            f"the options: {validation_sentence(problem, 'see `tallystick agreement new --help`')}"
        ) from None
    text = render_agreement(draft)
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise AgreementRefused(
            f"{shown_path(out)}: expected no file here, found one; choose another name with --out."
        ) from None
    except OSError as problem:
        raise AgreementRefused(
            f"{shown_path(out)}: cannot be written ({problem.strerror}); choose another place with --out."
        ) from None
    print(f"Wrote {shown_path(out)}: {len(roster)} members, {len(draft.features)} features.")
    if draft.missing_keys:
        print(f"Put in the identity keys of {', '.join(draft.missing_keys)}, then let everybody sign it.")


@app.command()
def sign(
    path: AgreementPath,
    key: Annotated[Path, typer.Option(help="The signer's identity key (identity.pem).", show_default=False)],
) -> None:
    """Sign an agreement with an identity key; which signer it is follows from the key.

    Example: tallystick agreement sign agreement.toml --key keys/identity.pem
    """
    agreement = load_agreement(path)
    private_key = load_identity_key(key)
    text = identity_key_text(private_key.public_key())
    keys = {COORDINATOR: agreement.coordinator.identity_key} | {m.id: m.identity_key for m in agreement.members}
    signer = next((name for name, public in keys.items() if public == text), None)
    if signer is None:
        raise AgreementRefused(
            f"{shown_path(key)}: expected the identity key of a member or of the coordinator, found {text}, which the"
            " agreement does not name; use another key, or have the agreement name this one."
        )
    written = sign_agreement(agreement, path, signer, private_key)
    print(f"{signer} signed agreement {agreement_hash(agreement).hex()} in {shown_path(written)}.")


@app.command()
def verify(path: AgreementPath, as_json: AsJson = False) -> None:
    """Check an agreement, and that every member and the coordinator signed it.

    Example: tallystick agreement verify agreement.toml --json
    """
    agreement = load_agreement(path)
    report = signature_report(agreement, path)
    if as_json:
        print(
            json.dumps(
                {
                    "agreement_hash": agreement_hash(agreement).hex(),
                    "complete": report.complete,
                    "valid": report.valid,
                    "missing": report.missing,
                    "wrong": report.wrong,
                    "foreign": report.foreign,
                }
            )
        )
    verify_signatures(agreement, path)
    if not as_json:
        print(f"Agreement {agreement_hash(agreement).hex()} is signed by all: {', '.join(report.valid)}.")


@app.command()
def show(path: AgreementPath, as_json: AsJson = False) -> None:
    """Show what an agreement says, and who signed it.

    Example: tallystick agreement show agreement.toml
    """
    agreement = load_agreement(path)
    report = signature_report(agreement, path)
    if as_json:
        shown_model = agreement.model_dump(mode="json", exclude={"entities": {"holdout_key"}})
        signed = {"valid": report.valid, "missing": report.missing, "wrong": report.wrong, "foreign": report.foreign}
        print(
            json.dumps(
                {"agreement_hash": agreement_hash(agreement).hex(), "signatures": signed, "agreement": shown_model}
            )
        )
        return
    _print_summary(agreement, frozenset(report.valid))


def _print_summary(agreement: Agreement, signed: frozenset[str]) -> None:
    privacy = agreement.privacy
    print(f"{agreement.name}\nhash        {agreement_hash(agreement).hex()}")
    for member in agreement.members:
        state = "signed" if member.id in signed else "not signed"
        print(f"member      {member.id} ({member.role}), {state}")
    print(f"coordinator {'signed' if COORDINATOR in signed else 'not signed'}")
    for task in agreement.tasks:
        print(
            f"task        {task.name}: {task.label} at {task.label_role}, {task.horizon_months} months,"
            f" for {', '.join(task.purposes)}"
        )
    for feature in agreement.features:
        print(
            f"feature     {feature.role}.{feature.name}: {feature.type} in {feature.unit},"
            f" {feature.low:g} to {feature.high:g}, {feature.reason_code}"
        )
    print(f"model       {agreement.model.tower}, {agreement.model.bins} bins")
    print(
        f"privacy     sums of at least {privacy.min_survivors} of {len(agreement.members)} members are opened;"
        f" safe against {privacy.max_colluders} colluding with the coordinator"
    )
    print(f"release     {agreement.release.policy}")


def _roster(members: list[str]) -> list[tuple[str, str]]:
    entries = [entry.strip() for text in members for entry in text.split(",") if entry.strip()]
    roster = []
    for entry in entries:
        member_id, separator, role = entry.partition(":")
        if not (member_id and separator and role):
            raise typer.BadParameter(f"expected id:role such as bank-a:bank, found {shown(entry)}")
        roster.append((member_id, role))
    if len(roster) < 3:
        raise typer.BadParameter(f"expected at least 3 members, found {len(roster)}: sums of fewer hide nobody")
    return roster


def _keys(entries: tuple[str, ...] | list[str], members: set[str]) -> dict[str, str]:
    keys = {}
    for entry in entries:
        name, _, key = entry.partition("=")
        if name != COORDINATOR and name not in members:
            raise typer.BadParameter(f"expected a key of a member or of the coordinator, found one for {shown(name)}")
        try:
            parse_identity_key(key)
        except ValueError as problem:
            raise typer.BadParameter(f"key of {name}: {one_line(problem)}") from None
        keys[name] = key
    return keys


def _contract(example: Example | None, features: Path | None, role: str) -> tuple[Feature, ...]:
    if (example is None) == (features is None):
        raise typer.BadParameter("expected exactly one of --example and --features")
    return read_features(features) if features else gmsc_features(role)
