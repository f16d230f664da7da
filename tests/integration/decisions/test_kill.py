"""kill -9 of a process that decides under load: what was acknowledged is there, once and whole, with a valid proof."""

import datetime as dt
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa

from coordinator.decisions.records import WebhookEndpoint
from coordinator.ledger.audit import audit
from coordinator.ledger.checkpoints import Checkpointer
from coordinator.ledger.log import Log
from protos.ledger.checkpoints import open_checkpoint
from protos.ledger.merkle import leaf_hash, verify_inclusion

HERE = Path(__file__).parent
ACKNOWLEDGED = 200


def acknowledged_until_killed(url, life, where):
    """What a process said was done before it died: {key: (decision id, ledger entry)}."""
    with subprocess.Popen(
        [sys.executable, HERE / "deciding.py", url, life, where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[2])},
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if where == "never" and len(lines) == ACKNOWLEDGED:
                process.kill()
        errors = process.stderr.read()
    assert process.returncode == -signal.SIGKILL, errors
    whole = [line.split() for line in lines if line.endswith("\n")]
    return {key: (decision, int(entry)) for key, decision, entry in whole}


def test_every_acknowledged_decision_outlives_kill_9_once_whole_and_with_a_proof(
    reopen, decisions_url, operator, keys, tmp_path
):
    store = reopen(survives_power_cut=True)
    endpoint = WebhookEndpoint(
        id="end-1", tenant="acme", url="https://x", key_id="k", topics=(), created_at=dt.datetime.now(dt.UTC)
    )
    store.commit_blocking(lambda writes: writes.add_endpoint(endpoint))
    acknowledged = {}
    for life, where in enumerate(("never", "sent", "committed", "never")):
        acknowledged |= acknowledged_until_killed(decisions_url, f"life{life}", where)
    assert len(acknowledged) > 2 * ACKNOWLEDGED

    # Each is there, and asking again under its key gives the same answer and decides nothing.
    for key, (decision, entry) in acknowledged.items():
        stored = store.decision("acme", decision)
        assert stored.entry == entry
        answer = store.answered("acme", key, hashlib.sha256(key.encode()).digest())
        assert answer.body.decode() == f"{decision} {entry}"

    # None is half-made: as many decisions as entries, answers and webhooks; and the ledger says of each what it is.
    with store.reading() as connection:
        counts = {
            table: connection.execute(sa.text(f"select count(*) from {table}")).scalar_one()
            for table in ("decisions", "ledger_entries", "idempotency_keys", "webhook_outbox")
        }
        assert set(counts.values()) == {Log(connection).head().size}
        assert audit(connection).findings == []

    # And each has a proof, under one signature of the operator's.
    checkpointer = Checkpointer(store, operator, tmp_path / "state")
    for _, entry in list(acknowledged.values())[::37]:
        proved = checkpointer.proof_for(entry)
        checkpoint = open_checkpoint(proved.checkpoint.note, keys.log)
        verify_inclusion(leaf_hash(proved.body), entry, checkpoint.size, proved.proof, checkpoint.root)
