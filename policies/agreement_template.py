"""A commented `agreement.toml` to start from: what `tallystick agreement new` writes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from policies.agreement import Feature, ModelTerms, PrivacyTerms, Task, format_identity_key, parse_agreement
from policies.closed_model import read_bounded, shown_path, validation_sentence
from policies.errors import AgreementRefused

PLACEHOLDER = "ed25519:REPLACE-WITH-THE-KEY-THAT-INIT-PRINTED"
_COLUMNS = ("role", "name", "type", "unit", "low", "high", "monotone", "reason_code", "missing_allowed")


@dataclass(frozen=True)
class AgreementDraft:
    """What a new agreement is made of; keys that are not known yet are None."""

    name: str
    members: Sequence[tuple[str, str]]
    """(id, role) in order."""
    identity_keys: Mapping[str, str]
    """`ed25519:...` by member id, and by "coordinator"."""
    features: Sequence[Feature]
    tasks: Sequence[Task]
    model: ModelTerms
    privacy: PrivacyTerms
    release_policy: str
    id_column: str
    holdout_key: bytes
    """32 bytes."""

    @property
    def missing_keys(self) -> tuple[str, ...]:
        """Who still has to send an identity key."""
        return tuple(name for name in (*(m for m, _ in self.members), "coordinator") if name not in self.identity_keys)


def render_agreement(draft: AgreementDraft) -> str:
    """The TOML text of a draft, checked as a whole; missing keys become a placeholder that loading refuses.

    Raises:
        AgreementRefused: What was asked for does not hold together.
    """
    stand_ins = {
        name: format_identity_key(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
        for name in draft.missing_keys
    }
    complete = replace(draft, identity_keys={**draft.identity_keys, **stand_ins})
    parse_agreement(_render(complete).encode("utf-8"), Path("agreement.toml"))
    return _render(draft)


def read_features(path: Path) -> tuple[Feature, ...]:
    """Read a feature contract from CSV, one feature a line.

    Args:
        path: The file; its header is role,name,type,unit,low,high,monotone,reason_code,missing_allowed.

    Raises:
        AgreementRefused: Names the line and what is wrong with it.
    """
    where = shown_path(path)
    try:
        text = read_bounded(path, AgreementRefused).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise AgreementRefused(f"{where}: expected CSV in UTF-8, found something else; export it again.") from None
    if not rows or tuple(cell.strip() for cell in rows[0]) != _COLUMNS:
        raise AgreementRefused(
            f"{where}: expected the header {','.join(_COLUMNS)}, found another; name the columns in that order."
        )
    return tuple(_feature(row, f"{where} line {number}") for number, row in enumerate(rows[1:], start=2) if row)


def _feature(row: Sequence[str], where: str) -> Feature:
    if len(row) != len(_COLUMNS):
        raise AgreementRefused(f"{where}: expected {len(_COLUMNS)} cells, found {len(row)}; correct the line.")
    cells = dict(zip(_COLUMNS, (cell.strip() for cell in row), strict=True))
    truth = {"true": True, "false": False}.get(cells["missing_allowed"].lower())
    try:
        low, high = float(cells["low"]), float(cells["high"])
    except ValueError:
        raise AgreementRefused(f"{where}: expected numbers for low and high, found other text; correct it.") from None
    if truth is None:
        raise AgreementRefused(f"{where}: expected true or false for missing_allowed, found other text; correct it.")
    try:
        return Feature.model_validate({**cells, "low": low, "high": high, "missing_allowed": truth})
    except ValidationError as problem:
        raise AgreementRefused(f"{where}: {validation_sentence(problem, 'see the columns above')}") from None


def _render(draft: AgreementDraft) -> str:
    def key_of(name: str) -> str:
        return _text(draft.identity_keys.get(name, PLACEHOLDER))

    privacy, model = draft.privacy, draft.model
    parts = [
        f"""\
# The contract of a Tallystick consortium. Every member and the coordinator sign it (`tallystick agreement sign`);
# its hash binds every message, so any change but comments and white space needs new signatures.
format = "tallystick-agreement/1"
name = {_text(draft.name)}

[coordinator]
identity_key = {key_of("coordinator")}    # printed by `tallystick coordinator init`

[entities]
id_column = {_text(draft.id_column)}          # names a row at every node; never a model input
holdout_key = "{draft.holdout_key.hex()}"    # 32 bytes; all nodes hold out the same entities
holdout_percent = 30

[model]
tower = "{model.tower}"                 # additive: hat functions on the bins; neural: a torch MLP
bins = {model.bins}
hidden_units = {list(model.hidden_units)}             # layers of a neural tower
ridge = {model.ridge!r}
smoothness = {model.smoothness!r}
pdo_points = {model.pdo_points!r}                # score points that double the odds good:bad
base_points = {model.base_points!r}
base_odds = {model.base_odds!r}                 # odds good:bad at base_points

[privacy]
min_cohort = {privacy.min_cohort}                   # members a run needs at least
max_colluders = {privacy.max_colluders}                # members that may collude with the coordinator
min_survivors = {privacy.min_survivors}                # smallest set of members whose sum may be opened
shamir_threshold = {privacy.shamir_threshold}             # shares that rebuild a mask: at most min_survivors - 1
min_cell_count = {privacy.min_cell_count}              # smaller cells of released tables are suppressed
min_rows_per_column = {privacy.min_rows_per_column}         # rarer basis columns are merged or left out
# true: a run may go on without a member, whose input then shows in the difference of two sums
allow_roster_change = {_truth(privacy.allow_roster_change)}
# true: vertical runs with one feature holder are allowed, whose partial scores the label holder then sees
partial_scores_visible_to_label_holder = {_truth(privacy.partial_scores_visible_to_label_holder)}

[release]
policy = "{draft.release_policy}"              # members: the platform never gets the model; platform: it does
"""
    ]
    parts.extend(
        f"\n[[members]]\nid = {_text(member_id)}\nrole = {_text(role)}\n"
        f"identity_key = {key_of(member_id)}    # printed by `tallystick node init`\n"
        for member_id, role in draft.members
    )
    parts.extend(
        f"\n[[tasks]]\nname = {_text(task.name)}\nlabel = {_text(task.label)}    # column; 1 is bad\n"
        f"label_role = {_text(task.label_role)}\nhorizon_months = {task.horizon_months}\n"
        f"purposes = [{', '.join(_text(purpose) for purpose in task.purposes)}]\n"
        for task in draft.tasks
    )
    parts.append(
        "\n# The feature contract: what every member of a role brings. Ranges are public and must hold all real"
        " values;\n# monotone says how the probability of default may move as the value grows.\n"
    )
    parts.extend(
        f"\n[[features]]\nrole = {_text(feature.role)}\nname = {_text(feature.name)}\ntype = {_text(feature.type)}\n"
        f"unit = {_text(feature.unit)}\nlow = {feature.low!r}\nhigh = {feature.high!r}\n"
        f"monotone = {_text(feature.monotone)}\nreason_code = {_text(feature.reason_code)}\n"
        f"missing_allowed = {_truth(feature.missing_allowed)}\n"
        for feature in draft.features
    )
    return "".join(parts)


def _text(value: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(value, ensure_ascii=False)


def _truth(value: bool) -> str:
    return "true" if value else "false"
