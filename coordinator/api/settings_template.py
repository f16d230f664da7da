"""A commented `api.toml` to start from: what `tallystick api init` writes."""

from __future__ import annotations

import json


def api_settings_toml(*, coordinator_settings_path: str, model_path: str, issuer_url: str, port: int) -> str:
    """The text of an `api.toml`; relative paths are meant from its folder.

    Args:
        coordinator_settings_path: The coordinator's settings.
        model_path: A released model, or the folder of its run.
        issuer_url: The API's own URL.
        port: To listen on.
    """

    def text(value: str) -> str:  # a TOML basic string; JSON's escapes are a subset of TOML's
        return json.dumps(value, ensure_ascii=False)

    return f"""\
# Settings of a Tallystick financing API. Relative paths are meant from the folder of this file; no passwords here.
format = "tallystick-api/1"
coordinator_settings_path = {text(coordinator_settings_path)}  # identity key, agreement, database of decisions
issuer_url = {text(issuer_url)}          # as clients reach it; issuer and audience of its tokens
identity_dir = "clients"                 # mode 0700: clients and the keys that sign tokens, `tallystick api client-add`
evidence_key_path = "keys/evidence.key"  # mode 0600: finds a document presented twice; back it up with the database
model_path = {text(model_path)}
horizon_months = 12                      # of the model's task
listen_host = "127.0.0.1"                # another address needs [tls]
port = {port}
# policy_dir = "lending"                 # the shipped tables by default; changes take effect without a restart
# lists_dir = "screening"                # the shipped lists are SAMPLES: put the real ones here
max_in_flight = 256                      # requests under way; beyond, callers get 429
log_level = "info"

# [tls]
# certificate_path = "keys/api.crt"
# key_path = "keys/api.pem"
"""
