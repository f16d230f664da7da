"""`tallystick grant`: the keys of grants, grants for the use of entities' data, their revocation, and what they say."""

from __future__ import annotations

import datetime as dt
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policies.agreement import Agreement, format_identity_key, load_agreement
from policies.closed_model import shown, shown_path
from policies.errors import SettingsRefused
from policies.grant_files import GRANT_SUFFIX, REVOCATIONS_SUFFIX, read_grant, read_revocations, write_replacing
from policies.grants import Grant, issue_grant, issue_revocations
from policies.key_files import create_identity_key, identity_key_text, load_identity_key, write_private
from policies.token_key import TokenKey, create_token_key, load_token_key
from protos.masked_sum.request import MAX_ENTITIES

if TYPE_CHECKING:
    from collections.abc import Sequence

_DAY_S = 86_400

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")]
IssuerKey = Annotated[
    Path, typer.Option(help="The issuer's key, as `grant new-key --issuer` writes it.", show_default=False)
]


@app.callback()
def _grant() -> None:
    """Grants: who let whose data be used, for what, by which roles, until when.

    Example: tallystick grant show seller-7.grant
    """


@app.command("new-key", epilog="Example: tallystick grant new-key --token keys/token.key --issuer keys/issuer.pem")
def new_key(
    token: Annotated[
        Path | None, typer.Option(help="File for a new token key, which members and issuer share.", show_default=False)
    ] = None,
    issuer: Annotated[
        Path | None, typer.Option(help="File for a new issuer's key, which signs grants.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the key of entity tokens, or the key of an issuer of grants, or both; files of mode 0600.

    The platform gets neither: with the token key its list of customers would be a dictionary for the tokens.
    """
    if token is None and issuer is None:
        raise typer.BadParameter("expected --token, --issuer or both, found neither")
    found: dict[str, str] = {}
    if token is not None:
        found |= {"token_key": str(token), "check_value": create_token_key(token).check_value}
    if issuer is not None:
        found |= {"issuer_key": str(issuer), "issuer": identity_key_text(create_identity_key(issuer).public_key())}
    if as_json:
        print(json.dumps(found))
        return
    if token is not None:
        print(f"token key      {shown_path(token)}, check value {found['check_value']}")
        print("Next: give this file to every member over a channel of your own, never to the platform.")
    if issuer is not None:
        print(f"issuer         {found['issuer']}")
        print("Next: members put this into grant_issuers of policy.toml and scoring.toml.")


@app.command(
    epilog="Example: tallystick grant issue --agreement agreement.toml --in sellers.txt --purpose credit-decision"
    " --days 90 --issuer-key keys/issuer.pem --token-key keys/token.key --out grants/seller-7.grant"
)
def issue(
    agreement: Annotated[Path, typer.Option(help="The agreement.toml.", show_default=False)],
    rows: Annotated[
        Path, typer.Option("--in", help="Identifiers, one a line; or a CSV with --id-column.", show_default=False)
    ],
    purpose: Annotated[list[str], typer.Option(help="What the answers may be used for; repeated.", show_default=False)],
    issuer_key: IssuerKey,
    token_key: Annotated[Path, typer.Option(help="The members' token key.", show_default=False)],
    out: Annotated[Path, typer.Option(help=f"File to write, `*{GRANT_SUFFIX}`.", show_default=False)],
    role: Annotated[
        list[str] | None, typer.Option(help="Roles that may answer; all by default; repeated.", show_default=False)
    ] = None,
    days: Annotated[int, typer.Option(help="How long it holds.", min=1, max=3650)] = 90,
    answers: Annotated[
        list[str] | None,
        typer.Option(help="role=member: who of a role of several answers; repeated.", show_default=False),
    ] = None,
    grant_id: Annotated[str, typer.Option("--id", help="Its name; random by default.", show_default=False)] = "",
    id_column: Annotated[
        str | None, typer.Option(help="Column of the identifiers, if the file is a CSV.", show_default=False)
    ] = None,
    one_role_may_answer: Annotated[
        bool, typer.Option(help="Let a score be used that one member alone contributes to.")
    ] = False,
    documents: Annotated[
        bool, typer.Option("--documents", help="The file is a CSV of orders and invoices, for `tallystick match`.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sign a grant for the entities, or the documents, of a file.

    Identifiers become tokens; the grant does not hold them. All are understood, or nothing is written.
    """
    terms = load_agreement(agreement)
    roles = _roles(terms, role or ())
    _check_purposes(terms, purpose)
    answering = _answering(terms, roles, answers or ())
    signer, key = load_identity_key(issuer_key), load_token_key(token_key)
    tokens = _tokens(rows, id_column, key, token_key, terms, documents=documents)
    different = set(tokens)
    if not 1 <= len(different) <= MAX_ENTITIES:
        raise SettingsRefused(
            f"{shown_path(rows)}: expected 1 to {MAX_ENTITIES} different entities, found {len(different)};"
            " split them over several grants."
        )
    now = int(dt.datetime.now(dt.UTC).timestamp())
    name = grant_id or f"grant-{secrets.token_hex(8)}"
    signed = issue_grant(
        signer,
        grant_id=name,
        purposes=tuple(dict.fromkeys(purpose)),
        roles=roles,
        not_before_s=now,
        expires_s=now + days * _DAY_S,
        tokens=different,
        one_role_may_answer=one_role_may_answer,
        answering=answering,
        token_key=key,
    )
    write_private(out, signed)
    facts = _facts(read_grant(out)) | {"repeated": len(tokens) - len(different), "file": str(out)}
    if as_json:
        print(json.dumps(facts))
        return
    print(f"{name}: {len(different)} entities until {facts['expires'][:10]}, for {', '.join(facts['purposes'])}")
    unnamed = [one for one in roles if one not in answering and len(terms.members_of(one)) > 1]
    if unnamed:
        print(
            f"Every member of {', '.join(unnamed)} that knows an entity answers; where two know the same one,"
            " name the one that answers with --answers."
        )
    print(f"wrote          {shown_path(out)}")


@app.command(
    epilog="Example: tallystick grant revoke grants/seller-7.grant --issuer-key keys/issuer.pem"
    " --list revoked.revocations"
)
def revoke(
    grants: Annotated[list[str], typer.Argument(help="Names of grants, or their files.", show_default=False)],
    issuer_key: IssuerKey,
    revocations: Annotated[
        Path,
        typer.Option(
            "--list", help=f"The issuer's list, `*{REVOCATIONS_SUFFIX}`; made if it is absent.", show_default=False
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Sign the issuer's revocation list anew, with these grants on it and the next version number.

    Send it to the coordinator (into its folder of revocation lists): every node gets it from there.
    """
    signer = load_identity_key(issuer_key)
    issuer = signer.public_key().public_bytes_raw()
    names, version = {_name_of(text) for text in grants}, 0
    if revocations.exists():
        _, known = read_revocations(revocations, [issuer])
        names, version = names | known.grant_ids, known.version
    write_replacing(revocations, issue_revocations(signer, version + 1, names))
    if as_json:
        print(json.dumps({"version": version + 1, "grants": sorted(names), "file": str(revocations)}))
        return
    print(f"version {version + 1} of this issuer's list: {len(names)} grants are void")
    print(f"wrote          {shown_path(revocations)}")
    print("Next: put it into the coordinator's folder of revocation lists; nodes learn it within a second.")


@app.command(epilog="Example: tallystick grant show grants/seller-7.grant --list revoked.revocations --json")
def show(
    path: Annotated[Path, typer.Argument(help="A grant or a revocation list.", show_default=False)],
    revocations: Annotated[
        Path | None, typer.Option("--list", help="A revocation list to look the grant up in.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the signature of a grant or a revocation list, and show what it says."""
    if path.suffix == REVOCATIONS_SUFFIX:
        _, listed = read_revocations(path)
        facts: dict[str, Any] = {
            "issuer": format_identity_key(listed.issuer),
            "version": listed.version,
            "grants": sorted(listed.grant_ids),
        }
    else:
        grant = read_grant(path)
        facts = _facts(grant)
        if revocations is not None:
            _, listed = read_revocations(revocations, [grant.issuer])
            facts["revoked"] = grant.grant_id in listed.grant_ids
    if as_json:
        print(json.dumps(facts))
        return
    for name, fact in facts.items():
        text = ", ".join(map(str, fact)) if isinstance(fact, list) else fact
        print(f"{name.replace('_', ' '):22}{'yes' if text is True else 'no' if text is False else text}")


def _facts(grant: Grant) -> dict[str, Any]:
    return {
        "grant": grant.grant_id,
        "issuer": format_identity_key(grant.issuer),
        "purposes": list(grant.purposes),
        "roles": list(grant.roles),
        "not_before": _moment(grant.not_before_s),
        "expires": _moment(grant.expires_s),
        "entities": len(grant.places),
        "answerers_named": bool(grant.answerers),
        "one_role_may_answer": grant.one_role_may_answer,
    }


def _moment(at_s: int) -> str:
    try:
        return dt.datetime.fromtimestamp(at_s, dt.UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{at_s} s"


def _name_of(text: str) -> str:
    """A grant's name, of its file or as it is."""
    return read_grant(Path(text)).grant_id if text.endswith(GRANT_SUFFIX) else text


def _roles(terms: Agreement, named: Sequence[str]) -> tuple[str, ...]:
    known = tuple(dict.fromkeys(member.role for member in terms.members))
    for role in named:
        if role not in known:
            raise typer.BadParameter(
                f"--role: expected a role of the agreement ({', '.join(known)}), found {shown(role)}"
            )
    return tuple(dict.fromkeys(named)) or known


def _check_purposes(terms: Agreement, named: Sequence[str]) -> None:
    known = dict.fromkeys(purpose for task in terms.tasks for purpose in task.purposes)
    for purpose in named:
        if purpose not in known:
            raise typer.BadParameter(
                f"--purpose: expected a purpose of the agreement ({', '.join(known)}), found {shown(purpose)}"
            )


def _answering(terms: Agreement, roles: Sequence[str], named: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in named:
        role, _, member = text.partition("=")
        known = [one.id for one in terms.members_of(role)] if role in roles else []
        if member not in known:
            raise typer.BadParameter(
                f"--answers: expected role=member of a role of the grant ({', '.join(roles)}) and one of its members,"
                f" found {shown(text)}"
            )
        found[role] = member
    return found


def _tokens(
    rows: Path, id_column: str | None, key: TokenKey, key_path: Path, terms: Agreement, *, documents: bool
) -> list[bytes]:
    """A token for every row of a file, all of them understood.

    Raises:
        SettingsRefused: The file cannot be read, or a row is not understood; no value is shown.
    """
    if documents:
        from tallystick.match import tokens_of_documents

        return list(tokens_of_documents(rows, key_path).values())
    from nodes.entity_tokens import EntityTokens
    from tallystick.federated_score import read_identifiers

    tokens = EntityTokens(key, terms.entities.id_type).of(read_identifiers(rows, id_column))
    malformed = [line for line, token in enumerate(tokens, start=1) if token is None]
    if malformed:
        raise SettingsRefused(
            f"{shown_path(rows)}: expected identifiers of type {terms.entities.id_type!r}, found {len(malformed)} that"
            f" are none (the first is number {malformed[0]}); correct or remove them."
        )
    return [token for token in tokens if token is not None]
