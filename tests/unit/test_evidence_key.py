"""The key by which one document is found twice."""

import pytest

from coordinator.financing.evidence_key import load_or_create_evidence_key
from policies.errors import SettingsRefused


def test_the_key_is_made_once_and_kept_private(tmp_path):
    path = tmp_path / "evidence.key"
    made = load_or_create_evidence_key(path)

    assert load_or_create_evidence_key(path).matches(made)
    assert path.stat().st_mode & 0o777 == 0o600
    assert made.raw.hex() not in repr(made)


def test_a_key_that_others_can_read_or_that_is_none_is_refused(tmp_path):
    path = tmp_path / "evidence.key"
    load_or_create_evidence_key(path)
    path.chmod(0o644)
    with pytest.raises(SettingsRefused):
        load_or_create_evidence_key(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(SettingsRefused, match="backup"):
        load_or_create_evidence_key(path)
