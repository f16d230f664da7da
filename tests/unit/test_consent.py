"""Which rows a node may use: grants in force for the purpose and the node's role, and no others."""

import datetime as dt

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nodes.checked_rows import CheckedVerticalRows
from nodes.consent import ConsentAtSource, ConsentByGrants, consent_filter
from nodes.entity_tokens import EntityTokens
from nodes.membership import Membership
from nodes.readiness import readiness
from nodes.revocations import RevocationStore, revocations_folder
from nodes.settings import load_node_settings
from policies.agreement import format_identity_key
from policies.errors import GuardRefused, SettingsRefused, UserError
from policies.grants import GrantRefused, issue_grant, issue_revocations
from policies.guard import NodePolicy, load_policy
from policies.token_key import TokenKey
from protos.sealed_sum.keys import SigningKey
from simulations.roles import agreement_of_roles

ROLES = {"bank-a": "bank", "payment-a": "payment", "logistics-a": "logistics"}
PURPOSE = "credit-model-training"
NOW = 1_800_000_000.0
KEY = TokenKey(bytes(range(32)))
TOKENS = EntityTokens(KEY, "code")
IDS = ["GB 1", "gb2", "GB-3", "???", None]


@pytest.fixture
def issuer():
    return Ed25519PrivateKey.generate()


class Place:
    """A node's folders of grants and revocations."""

    def __init__(self, folder, issuer):
        self.grants, self.revocations, self.issuer = folder / "grants", folder / "revocations", issuer
        self.grants.mkdir()
        self.revocations.mkdir()

    def put(self, ids, name="g", issuer=None, **changes):
        terms = {
            "grant_id": name,
            "purposes": [PURPOSE],
            "roles": ["bank", "payment"],
            "not_before_s": int(NOW) - 10,
            "expires_s": int(NOW) + 10,
            "tokens": TOKENS.of(ids),
        }
        (self.grants / f"{name}.grant").write_bytes(issue_grant(issuer or self.issuer, **(terms | changes)))

    def revoke(self, version, names, issuer=None, name="list"):
        (self.revocations / f"{name}.revocations").write_bytes(issue_revocations(issuer or self.issuer, version, names))

    def rows(self, ids=IDS, purpose=PURPOSE, role="bank"):
        known = [self.issuer.public_key().public_bytes_raw()]
        consent = ConsentByGrants(TOKENS, role, self.grants, (self.revocations,), known, lambda: NOW)
        found = consent.rows(ids, purpose)
        assert found.dtype == np.bool_
        return found.tolist()


@pytest.fixture
def place(tmp_path, issuer):
    return Place(tmp_path, issuer)


def test_rows_with_a_grant_are_used_however_their_identifier_is_written(place):
    place.put(["gb 1"], "one")
    place.put(["GB3"], "three")

    assert place.rows() == [True, False, True, False, False]


@pytest.mark.parametrize(
    "changes",
    [
        {"purposes": ["marketing"]},
        {"roles": ["payment"]},
        {"not_before_s": int(NOW) + 5},
        {"expires_s": int(NOW) - 5},
    ],
)
def test_grant_for_another_purpose_role_or_time_does_not_count(place, changes):
    place.put(["GB1"], **changes)

    assert not any(place.rows())


def test_grant_of_an_issuer_that_the_policy_does_not_name_does_not_count(place):
    place.put(["GB1"], issuer=Ed25519PrivateKey.generate())

    assert not any(place.rows())


def test_revoked_grant_counts_no_more_and_an_older_list_does_not_bring_it_back(place):
    place.put(["GB1"], "one")
    place.put(["GB2"], "two")
    place.revoke(3, ["one"])
    place.revoke(2, [], name="older")

    assert place.rows() == [False, True, False, False, False]


def test_list_of_an_issuer_says_nothing_about_another_issuers_grants(place):
    place.put(["GB1"], "one")
    place.revoke(1, ["one"], issuer=Ed25519PrivateKey.generate())

    assert place.rows()[0]


@pytest.mark.parametrize("folder", ["grants", "revocations"])
def test_absent_folder_lets_no_row_be_used(place, folder):
    place.put(["GB1"])
    target = getattr(place, folder)
    for path in target.iterdir():
        path.unlink()
    target.rmdir()
    with pytest.raises(SettingsRefused, match="expected a folder"):
        place.rows()


@pytest.mark.parametrize("damaged", ["grant", "revocations"])
def test_damaged_file_lets_no_row_be_used_and_is_named(place, damaged):
    place.put(["GB1"])
    place.revoke(1, ["other"])
    path = place.grants / "g.grant" if damaged == "grant" else place.revocations / "list.revocations"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(GrantRefused, match=path.name):
        place.rows()


# ---- what a node's policy and settings say ----


def membership(**policy):
    keys = {member: SigningKey.from_bytes(bytes([n]) * 32).public_bytes for n, member in enumerate(sorted(ROLES), 1)}
    identity = SigningKey.from_bytes(bytes([1]) * 32)
    agreement = agreement_of_roles(ROLES, keys, SigningKey.from_bytes(bytes([9]) * 32).public_bytes, id_type="code")
    terms = {"tasks": ("credit",), "purposes": (PURPOSE,), "methods": ("alignment",), "min_cohort": 3, "max_rounds": 1}
    return Membership("bank-a", identity, agreement, NodePolicy(format="tallystick-node-policy/1", **terms, **policy))


def settings(folder, table=""):
    (folder / "node.toml").write_text(f"""
format = "tallystick-node/1"
member_id = "bank-a"
agreement_path = "agreement.toml"
policy_path = "policy.toml"
state_dir = "state"
identity_key_path = "identity.pem"
coordinator = {{ address = "co.example:1", ca_certificate_path = "ca.crt" }}
tls = {{ certificate_path = "tls.crt", key_path = "tls.pem" }}
source = {{ kind = "csv", path = "rows.csv" }}
{table}
""")
    return load_node_settings(folder / "node.toml")


TABLE = '[consent]\ngrants_dir = "grants"\nrevocations_dir = "revocations"\ntoken_key_path = "token.key"\n'


def grants_policy(issuer):
    return {"consent": "grants", "grant_issuers": (format_identity_key(issuer.public_key().public_bytes_raw()),)}


def test_policy_that_asks_for_grants_needs_a_consent_table(tmp_path, issuer):
    with pytest.raises(GuardRefused, match=r"expected a consent table in node\.toml"):
        consent_filter(settings(tmp_path), membership(**grants_policy(issuer)))


def test_policy_that_asks_for_grants_needs_an_issuer(tmp_path):
    with pytest.raises(GuardRefused, match="expected issuers whose grants count"):
        consent_filter(settings(tmp_path, TABLE), membership(consent="grants"))


def test_policy_that_names_the_source_uses_every_row(tmp_path):
    found = consent_filter(settings(tmp_path), membership(consent="source"))

    assert isinstance(found, ConsentAtSource)
    assert found.rows(IDS, PURPOSE).tolist() == [True] * 5


def test_policy_without_the_field_means_the_source_as_it_did_before(tmp_path):
    assert isinstance(consent_filter(settings(tmp_path), membership()), ConsentAtSource)


def test_list_that_the_gateway_pushed_counts_for_training_too(tmp_path, issuer):
    place = Place(tmp_path, issuer)
    place.put(["GB1"], "one", expires_s=int(NOW) + 10)
    (tmp_path / "token.key").write_text(KEY.raw.hex())
    (tmp_path / "token.key").chmod(0o600)
    found, member = settings(tmp_path, TABLE), membership(**grants_policy(issuer))
    before = consent_filter(found, member, now=lambda: NOW).rows(["GB1"], PURPOSE)
    store = RevocationStore(revocations_folder(found.state_dir), member.policy.issuer_keys)
    store.take(issue_revocations(issuer, 1, ["one"]))

    assert before.tolist() == [True]
    assert consent_filter(found, member, now=lambda: NOW).rows(["GB1"], PURPOSE).tolist() == [False]


@pytest.mark.parametrize(
    ("methods", "ready"), [('["newton"]', True), ('["alignment"]', False), ('["vertical"]', False)]
)
def test_node_status_asks_for_the_table_only_where_entities_are_aligned(tmp_path, methods, ready):
    (tmp_path / "policy.toml").write_text(
        f'format = "tallystick-node-policy/1"\ntasks = []\npurposes = []\nmethods = {methods}\nmin_cohort = 3\n'
        'max_rounds = 1\nconsent = "grants"\n'
    )
    (tmp_path / "policy.toml").chmod(0o600)
    checks = {check.name: check.problem for check in readiness(settings(tmp_path), dt.datetime.now(dt.UTC))}
    assert (checks["consent"] is None) == ready


@pytest.mark.parametrize("issuers", ['["ed25519:AAAA"]', '["x"]', "[1]"])
def test_issuer_that_is_no_key_is_refused(tmp_path, issuers):
    (tmp_path / "policy.toml").write_text(
        'format = "tallystick-node-policy/1"\ntasks = []\npurposes = []\nmethods = []\nmin_cohort = 3\n'
        f"max_rounds = 1\ngrant_issuers = {issuers}\n"
    )
    (tmp_path / "policy.toml").chmod(0o600)
    with pytest.raises(GuardRefused, match="grant_issuers"):
        load_policy(tmp_path / "policy.toml")


# ---- lists that the gateway pushed ----


def test_pushed_list_is_on_the_disk_and_read_back_by_the_next_process(tmp_path, issuer):
    raw = issuer.public_key().public_bytes_raw()
    RevocationStore(tmp_path / "r", [raw]).take(issue_revocations(issuer, 2, ["one"]))
    again = RevocationStore(tmp_path / "r", [raw])

    assert again.revoked("one", raw)
    again.take(issue_revocations(issuer, 1, []))
    assert RevocationStore(tmp_path / "r", [raw]).revoked("one", raw)


def test_list_that_cannot_be_written_is_not_taken_up(tmp_path, issuer, monkeypatch):
    raw = issuer.public_key().public_bytes_raw()
    store = RevocationStore(tmp_path / "r", [raw])

    def full(*_):
        raise SettingsRefused("cannot be written")

    monkeypatch.setattr("nodes.revocations.write_replacing", full)
    with pytest.raises(UserError):
        store.take(issue_revocations(issuer, 1, ["one"]))
    assert not store.revoked("one", raw)


def test_list_of_a_stranger_is_refused(tmp_path, issuer):
    store = RevocationStore(tmp_path / "r", [issuer.public_key().public_bytes_raw()])
    with pytest.raises(GrantRefused):
        store.take(issue_revocations(Ed25519PrivateKey.generate(), 1, ["one"]))
    assert list((tmp_path / "r").iterdir()) == []


# ---- alignment ----


def test_alignment_takes_consented_entities_alone_and_every_row_keeps_its_place(tmp_path, issuer):
    """What `node run` gives the alignment: ids in the order of the checked rows, None for those without a grant."""
    place = Place(tmp_path, issuer)
    place.put(["GB1", "GB3"], "one", not_before_s=0, expires_s=2**40)
    (tmp_path / "token.key").write_text(KEY.raw.hex())
    (tmp_path / "token.key").chmod(0o600)
    member = membership(**grants_policy(issuer))
    column = member.agreement.features_of("bank")[0].name
    (tmp_path / "rows.csv").write_text(
        f"seller_id,{column},defaulted\n" + "".join(f"GB {n},{n},0\n" for n in range(1, 5))
    )
    found, said = settings(tmp_path, TABLE), []
    rows = CheckedVerticalRows(member, found, lambda: consent_filter(found, member), said.append)

    assert rows.entities(("credit",), PURPOSE) == ("GB 1", None, "GB 3", None)
    assert "credit: 2 of 4 entities consented to credit-model-training" in said
    place.revoke(1, ["one"])
    assert rows.entities(("credit",), PURPOSE) == (None, None, None, None)
