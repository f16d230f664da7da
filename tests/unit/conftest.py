"""A node's settings, as small as they may be, for tests of one of its tables."""

import pytest

from nodes.settings import load_node_settings


@pytest.fixture
def node_settings(tmp_path):
    """Makes settings in the test's folder with further TOML at the end."""

    def make(tables=""):
        (tmp_path / "node.toml").write_text(f"""
format = "tallystick-node/1"
member_id = "bank-a"
agreement_path = "agreement.toml"
policy_path = "policy.toml"
state_dir = "state"
identity_key_path = "identity.pem"
coordinator = {{ address = "co.example:1", ca_certificate_path = "ca.crt" }}
tls = {{ certificate_path = "tls.crt", key_path = "tls.pem" }}
source = {{ kind = "csv", path = "rows.csv" }}
{tables}
""")
        return load_node_settings(tmp_path / "node.toml")

    return make
