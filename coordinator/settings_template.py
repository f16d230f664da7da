"""A commented `coordinator.toml` to start from: what `tallystick coordinator init` writes."""

from __future__ import annotations

import json


def coordinator_settings_toml(
    *,
    listen_host: str,
    fleet_port: int,
    agreement_path: str = "agreement.toml",
    state_dir: str = "state",
    keys_dir: str = "keys",
    members_dir: str = "members",
    step_deadline_s: float = 60.0,
) -> str:
    """The text of a `coordinator.toml`; relative paths are meant from its folder.

    Args:
        listen_host: Address of the listener that faces the members.
        fleet_port: Its port; 0 takes any free one.
        agreement_path: The agreement.
        state_dir: Folder of the coordinator's state, mode 0700.
        keys_dir: Folder of the keys, mode 0700.
        members_dir: Folder of the admitted members' certificates.
        step_deadline_s: Time that members have to answer one step.
    """

    def text(value: str) -> str:  # a TOML basic string; JSON's escapes are a subset of TOML's
        return json.dumps(value, ensure_ascii=False)

    return f"""\
# Settings of a Tallystick coordinator. Relative paths are meant from the folder of this file; no password belongs here.
format = "tallystick-coordinator/1"
agreement_path = {text(agreement_path)}
state_dir = {text(state_dir)}                      # mode 0700
identity_key_path = {text(f"{keys_dir}/identity.pem")}  # mode 0600
listen_host = {text(listen_host)}
fleet_port = {fleet_port}                        # the one port that faces the members; 0 takes any free one
members_dir = {text(members_dir)}                  # <member>.crt, as `tallystick coordinator admit` writes them
step_deadline_s = {step_deadline_s!r}                   # time that members have to answer one step
# mlflow_tracking_uri = "sqlite:////var/lib/tallystick/mlflow.sqlite"    # by default a file in state_dir
# decisions_database_url = "postgresql://tallystick@db.example/tallystick"    # by default a file in state_dir
log_level = "info"                       # debug, info, warning or error

[tls]
certificate_path = {text(f"{keys_dir}/server.crt")}
key_path = {text(f"{keys_dir}/server.pem")}
ca_certificate_path = {text(f"{keys_dir}/consortium-ca.crt")}

# [scoring]                              # federated scores and matches; without this table there is no gateway
# port = 8444                            # for the nodes' scoring streams and the clients
# clients_dir = "clients"                # <client>.crt, as `tallystick coordinator client` writes them
# window_s = 86400                       # length of the answer window, as in the nodes' scoring policies
# revocations_dir = "revocations"        # *.revocations; what is put there is pushed to every node
"""
