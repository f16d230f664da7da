"""Commented `node.toml` and `policy.toml` to start from: what `tallystick node init` writes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from policies.agreement import Agreement


def node_settings_toml(
    *,
    member_id: str,
    coordinator_address: str,
    source: str,
    agreement_path: str = "agreement.toml",
    policy_path: str = "policy.toml",
    state_dir: str = "state",
    keys_dir: str = "keys",
    ca_certificate_path: str = "keys/consortium-ca.crt",
) -> str:
    """The text of a `node.toml`; relative paths are meant from its folder.

    Args:
        member_id: This node's id in the agreement.
        coordinator_address: host:port.
        source: The lines of the `[source]` table, from `source_toml`.
        agreement_path: The agreement.
        policy_path: The owner's policy.
        state_dir: Folder of the node's state, mode 0700.
        keys_dir: Folder of the keys, mode 0700.
        ca_certificate_path: The consortium's authority.
    """
    return f"""\
# Settings of one Tallystick node. Relative paths are meant from the folder of this file; no password belongs here.
format = "tallystick-node/1"
member_id = {_text(member_id)}
agreement_path = {_text(agreement_path)}
policy_path = {_text(policy_path)}              # no policy file, no participation
state_dir = {_text(state_dir)}                      # mode 0700
identity_key_path = {_text(f"{keys_dir}/identity.pem")}  # mode 0600
log_level = "info"                       # debug, info, warning or error

[coordinator]
address = {_text(coordinator_address)}
ca_certificate_path = {_text(ca_certificate_path)}

[tls]
certificate_path = {_text(f"{keys_dir}/{member_id}.crt")}  # what the operator returned for {member_id}.csr
key_path = {_text(f"{keys_dir}/tls.pem")}

[source]
{source}
# [scoring]                                # answers to scores and matches; without this table there are none
# gateway = "platform.example:8444"        # the coordinator's scoring gateway
# policy_path = "scoring.toml"             # no scoring policy, no answer
# tables_dir = "tables"                    # this member's partial scores, as training runs publish them
#
# [consent]                                # needed by consent = "grants" in policy.toml
# grants_dir = "grants"                    # *.grant, as `tallystick grant issue` writes them
# revocations_dir = "revocations"          # *.revocations, as `tallystick grant revoke` writes them
# token_key_path = {_text(f"{keys_dir}/token.key")}      # of the members and issuers, mode 0600
#
# [evidence]                               # what this member's books say of orders and invoices
# source = {{ kind = "csv", path = "books.csv" }}
# amount_tolerance_percent = 2.0
"""


def source_toml(kind: str, *, path: str = "", url_env: str = "", query: str = "") -> str:
    """The lines of a `[source]` table.

    Args:
        kind: csv, parquet or sql.
        path: The file, for csv and parquet.
        url_env: Environment variable that holds the database's URL, for sql.
        query: One SELECT, for sql.
    """
    if kind == "sql":
        return (
            f'kind = "sql"\nurl_env = {_text(url_env)}    # environment variable with the database url, or url_file\n'
            f"query = {_text(query)}\n"
        )
    return f"kind = {_text(kind)}                             # csv, parquet or sql\npath = {_text(path)}\n"


def node_policy_toml(agreement: Agreement | None, *, auto_cosign: bool = False) -> str:
    """The text of a `policy.toml`: what the agreement foresees, or nothing at all while there is none.

    Args:
        agreement: The agreement, if it is there already.
        auto_cosign: Whether this label holder co-signs allowed runs without asking.
    """
    tasks = sorted(task.name for task in agreement.tasks) if agreement else []
    purposes = sorted({purpose for task in agreement.tasks for purpose in task.purposes}) if agreement else []
    methods = ["newton", "fedavg", "fedprox", "fedadam", "alignment"] if agreement else []
    return f"""\
# The owner's own rules for this node, above everything the agreement allows. An empty list allows nothing.
format = "tallystick-node-policy/1"
tasks = {_list(tasks)}
purposes = {_list(purposes)}
methods = {_list(methods)}
min_cohort = {agreement.privacy.min_cohort if agreement else 3}  # smallest cohort this node takes part in
max_rounds = 100
max_aligned_entities = 2000000  # either side of an alignment, at most
max_set_ratio = 20.0     # a few entities asked of many would be probing
require_sealing = true   # refuse sums that the coordinator could read
auto_cosign = {"true" if auto_cosign else "false"}      # true: a label holder co-signs allowed runs without asking
consent = "grants"       # rows need a signed grant (node.toml says where they are); "source": the source holds
                         # entities that consented and no others
grant_issuers = []       # "ed25519:..." of those whose grants count
"""


def scoring_policy_toml(agreement: Agreement | None) -> str:
    """The text of a `scoring.toml`: what the agreement foresees; nobody's grants count until an issuer is named.

    Args:
        agreement: The agreement, if it is there already.
    """
    tasks = sorted(task.name for task in agreement.tasks) if agreement else []
    purposes = sorted({purpose for task in agreement.tasks for purpose in task.purposes}) if agreement else []
    return f"""\
# The owner's own rules for answering scores. An empty list allows nothing.
format = "tallystick-scoring-policy/1"
tasks = {_list(tasks)}            # add "three_way_match" to answer about orders and invoices
purposes = {_list(purposes)}
grant_issuers = []       # "ed25519:..." of those whose grants count
answers_per_entity = 3   # answers about one entity and task in one window
entities_per_requester = 200000  # entities asked about by one requester in a day
distinct_entities = 500000       # different entities in a day and purpose
"""


def _text(value: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(value, ensure_ascii=False)


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(_text(value) for value in values)}]"
