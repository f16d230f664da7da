"""The key by which one document is found twice."""

import pytest

from coordinator.financing.evidence_key import create_evidence_key, load_evidence_key
from policies.errors import SettingsRefused


def test_the_key_is_made_once_and_kept_private(tmp_path):
    path = tmp_path / "evidence.key"
    made = create_evidence_key(path)

    assert load_evidence_key(path).matches(made)
    assert path.stat().st_mode & 0o777 == 0o600
    assert made.raw.hex() not in repr(made)
    with pytest.raises(SettingsRefused, match="never overwritten"):
        create_evidence_key(path)


def test_a_key_that_is_absent_open_to_others_or_none_is_refused(tmp_path):
    """An absent one is not made anew: nothing that is lent against would be found again."""
    path = tmp_path / "evidence.key"
    with pytest.raises(SettingsRefused, match="found nothing"):
        load_evidence_key(path)
    create_evidence_key(path)
    path.chmod(0o644)
    with pytest.raises(SettingsRefused):
        load_evidence_key(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(SettingsRefused, match="64 hexadecimal digits"):
        load_evidence_key(path)
