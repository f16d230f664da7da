"""Where a served model comes from: a file, a run's folder, or the registry; never used before its hash is checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coordinator.registry import MODEL_FILE, Registry
from models.artefact import ArtefactError, Model, load_model
from models.bundle import MAX_BUNDLE_BYTES
from models.card import CARD_FILE, load_card
from policies.closed_model import shown_path
from policies.errors import UserError
from policies.release import ReleaseRefused, verify_artefact


class ModelUnavailable(UserError):
    """There is no model where one was asked for, or it is not the one that was released."""


def model_from_path(path: Path, expected_version: str | None = None) -> Model:
    """Read a model from its file, or from the folder of a run.

    In a folder, the model must be the one that the run's card names (if the folder has a card).

    Args:
        path: A model file, or a folder that holds `model.tallystick`.
        expected_version: SHA-256 of the file, hexadecimal.

    Raises:
        ModelUnavailable: Absent, unreadable, too large, not a model, or another version.
        CardRefused: The folder's card is malformed.
    """
    file = path / MODEL_FILE if path.is_dir() else path
    if path.is_dir() and (path / CARD_FILE).exists():
        on_card = load_card(path).evidence.table.model_digest
        if on_card is None:
            raise ModelUnavailable(
                f"{shown_path(path)}: expected a released model, found the run of a model that its members "
                "keep; score at the members."
            )
        expected_version = expected_version or on_card
    try:
        if not file.is_file():
            raise ModelUnavailable(
                f"Expected a model at {shown_path(file)}, found {'no file' if file.exists() else 'nothing'}; "
                f"give the {MODEL_FILE} of a run with release policy 'platform', or its folder."
            )
        with file.open("rb") as stream:
            artefact = stream.read(MAX_BUNDLE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the path is not valid"
        raise ModelUnavailable(f"{shown_path(file)}: cannot be read ({reason}); check path and permissions.") from None
    return _load(artefact, shown_path(file), expected_version)


def model_from_registry(
    registry: Registry,
    name: str,
    alias: str = "champion",
    *,
    identity_keys: Mapping[str, bytes] | None = None,
    min_signers: int = 1,
) -> Model:
    """Fetch a model by its registry name and alias.

    Args:
        registry: The registry; it checks the hash.
        name: Registered name.
        alias: For example "champion".
        identity_keys: Member id to Ed25519 public key of the agreement; None = signatures are not checked.
        min_signers: How many of these members must have signed the model (u - c).

    Raises:
        ModelUnavailable: Not a model, or too few signatures verify.
        RegistryRefused: The registry has no such opened model, or its file was changed.
    """
    stored = registry.load_model(name, alias)
    if identity_keys is not None:
        signed = [
            member
            for member, signature in stored.signatures.items()
            if member in identity_keys
            and _signed(stored.run_id, stored.artefact, signature, member, identity_keys[member])
        ]
        if len(signed) < max(min_signers, 1):
            raise ModelUnavailable(
                f"Model {name!r} ({alias}): expected signatures of at least {max(min_signers, 1)} members of "
                f"the agreement, found {len(signed)} that verify; it is not served."
            )
    return _load(stored.artefact, f"registered model {name!r}", stored.digest)


def _signed(run_id: str, artefact: bytes, signature: bytes, member: str, key: bytes) -> bool:
    try:
        verify_artefact(run_id, artefact, signature, member, key)
    except ReleaseRefused:
        return False
    return True


def _load(artefact: bytes, where: str, expected_version: str | None) -> Model:
    try:
        return load_model(artefact, expected_version)
    except ArtefactError as error:
        raise ModelUnavailable(f"{where}: {error}.") from None
