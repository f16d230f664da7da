"""Settings of both ends: where paths point, where a database's URL may stand, and what never gets printed."""

import os

import pytest
import tomli_w

from coordinator.settings import load_coordinator_settings
from coordinator.settings_template import coordinator_settings_toml
from nodes.settings import CsvSource, SqlSource, load_node_settings
from nodes.settings_template import node_policy_toml, node_settings_toml, source_toml
from policies.errors import SettingsRefused
from policies.guard import load_policy
from policies.key_files import (
    create_identity_key,
    load_identity_key,
    load_tls_key,
    make_private_folder,
    write_private,
)
from policies.network_address import split_address, url_holds_password

URL = "postgresql://me:hunter2@db.bank/loans"


def _node(folder, source):
    path = folder / "node.toml"
    path.write_text(node_settings_toml(member_id="bank-a", coordinator_address="co.example:8443", source=source))
    return path


def _sql(folder, **places):
    data = {"kind": "sql", "query": "select * from loans"} | places
    return load_node_settings(_node(folder, tomli_w.dumps(data)))


def test_relative_paths_are_meant_from_the_folder_of_the_settings_file(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    path = _node(tmp_path / "a", source_toml("csv", path="rows.csv"))
    monkeypatch.chdir(tmp_path / "b")
    from_absolute = load_node_settings(path)
    from_relative = load_node_settings(type(path)("../a/node.toml"))
    assert from_absolute.state_dir == tmp_path / "a" / "state"
    assert from_absolute.source == CsvSource(kind="csv", path=tmp_path / "a" / "rows.csv")
    assert from_relative.state_dir.resolve() == tmp_path / "a" / "state"


def test_absolute_paths_stay(tmp_path):
    settings = load_node_settings(_node(tmp_path, source_toml("parquet", path="/data/rows.parquet")))
    assert str(settings.source.path) == "/data/rows.parquet"


def test_database_url_may_stand_in_an_environment_variable(tmp_path):
    settings = _sql(tmp_path, url_env="LOANS_URL")
    assert settings.opened_source({"LOANS_URL": URL}).url.get_secret_value() == URL


@pytest.mark.parametrize("environ", [{}, {"LOANS_URL": ""}, {"LOANS_URL": "a\nb"}, {"LOANS_URL": "x" * 5000}])
def test_environment_variable_without_a_url_is_named(tmp_path, environ):
    with pytest.raises(SettingsRefused, match="environment variable LOANS_URL"):
        _sql(tmp_path, url_env="LOANS_URL").opened_source(environ)


def test_database_url_may_stand_in_a_private_file(tmp_path):
    write_private(tmp_path / "url", URL.encode() + b"\n")
    settings = _sql(tmp_path, url_file="url")
    assert settings.opened_source({}).url.get_secret_value() == URL


def test_url_file_that_others_can_read_is_refused(tmp_path):
    write_private(tmp_path / "url", URL.encode())
    (tmp_path / "url").chmod(0o644)
    with pytest.raises(SettingsRefused, match="0600"):
        _sql(tmp_path, url_file="url").opened_source({})


def test_database_url_with_a_password_is_refused_in_the_settings_and_not_repeated(tmp_path):
    with pytest.raises(SettingsRefused, match="url_env") as refused:
        _sql(tmp_path, url=URL)
    assert "hunter2" not in str(refused.value)


def test_database_url_never_shows_in_a_printed_setting(tmp_path):
    settings = _sql(tmp_path, url="postgresql://me@db.bank/loans")
    opened = _sql(tmp_path, url_env="LOANS_URL").opened_source({"LOANS_URL": URL})
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(opened), str(opened), f"{opened}"):
        assert "db.bank" not in shown
    assert isinstance(settings.source, SqlSource)


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "postgresql://:p@db/loans",
        "postgresql://db/loans?password=p",
        "postgresql://db/loans?sslmode=require&PASSWORD=p",
        "postgresql://me:p@[db/loans",
    ],
)
def test_password_in_a_url_is_seen_wherever_it_stands(url):
    assert url_holds_password(url)


@pytest.mark.parametrize("url", ["sqlite:////data/loans.db", "postgresql://me@db/loans?sslmode=require"])
def test_url_without_a_password_is_let_through(url):
    assert not url_holds_password(url)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("co.example:8443", ("co.example", 8443)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_address_is_split_into_host_and_port(text, parts):
    assert split_address(text) == parts


def test_templates_are_valid_settings(tmp_path):
    for source in (
        source_toml("csv", path='a "quoted" \\ name.csv'),
        source_toml("sql", url_env="LOANS_URL", query='select "a" from b'),
    ):
        load_node_settings(_node(tmp_path, source))
    coordinator = tmp_path / "coordinator.toml"
    coordinator.write_text(coordinator_settings_toml(listen_host="::1", fleet_port=0, step_deadline_s=2.5))
    settings = load_coordinator_settings(coordinator)
    assert settings.step_deadline_s == 2.5
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/state/mlflow.sqlite"


def test_policy_template_without_an_agreement_allows_nothing(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(node_policy_toml(None))
    path.chmod(0o644)
    policy = load_policy(path)
    assert policy.tasks == policy.purposes == policy.methods == ()
    assert policy.require_sealing


def test_new_key_is_private_and_never_overwritten(tmp_path):
    old_mask = os.umask(0)
    try:
        make_private_folder(tmp_path / "keys")
        key = create_identity_key(tmp_path / "keys" / "identity.pem")
    finally:
        os.umask(old_mask)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "keys" / "identity.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(SettingsRefused, match="never overwritten"):
        create_identity_key(tmp_path / "keys" / "identity.pem")
    assert load_identity_key(tmp_path / "keys" / "identity.pem").public_key() == key.public_key()


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_key_folder_that_others_can_enter_is_refused(tmp_path, mode):
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys").chmod(mode)
    with pytest.raises(SettingsRefused, match="0700"):
        make_private_folder(tmp_path / "keys")


def test_identity_key_is_no_tls_key_and_the_other_way_round(tmp_path):
    create_identity_key(tmp_path / "identity.pem")
    with pytest.raises(SettingsRefused, match="P-256"):
        load_tls_key(tmp_path / "identity.pem")
