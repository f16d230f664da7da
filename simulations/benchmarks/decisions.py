"""What it costs to take a decision for good: decision, answer, webhook and ledger entry in one commit, on the disk.

Callers wait for each other only as the store makes them; an error ends the run. Beside each row stands a floor: one row
of a table, committed the same way. Afterwards every decision is held against the ledger.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from coordinator.database.connection import parse_url
from coordinator.decisions.records import DecisionRecord, Response, WebhookEndpoint, canonical_json
from coordinator.decisions.store import DecisionStore, utc_now
from coordinator.decisions.writes import DecisionWrites
from coordinator.ledger.audit import audit
from policies.errors import UserError

ORIGIN: Final = "tallystick-ledger/bench"
TENANT: Final = "bench"
_DOCUMENT: Final = canonical_json({"explanation": ["a reason in a sentence of some length"] * 20}).decode()
_HASH: Final = hashlib.sha256(b"request").digest()

Work = Callable[[DecisionWrites], Response]
Row = dict[str, Any]


def run(
    url: str | None, folder: Path, clients: Sequence[int], number: int, *, progress: Callable[[str], None]
) -> list[Row]:
    """Measure one database.

    Args:
        url: An empty database, or one of an earlier measurement; an SQLite file in `folder` when None.
        folder: For that file.
        clients: Callers at once, one row each.
        number: Decisions a row.
        progress: Called with a line before each row.

    Raises:
        UserError: The database cannot be used, or does not hold what was acknowledged.
    """
    url = url or f"sqlite:///{folder / 'decisions.sqlite'}"
    store = DecisionStore.open(url, origin=ORIGIN)
    try:
        endpoint = WebhookEndpoint(
            id=store.new_id("end"), tenant=TENANT, url="https://x", key_id="k", topics=(), created_at=utc_now()
        )
        store.commit_blocking(lambda writes: writes.add_tenant(TENANT, "Bench"))
        store.commit_blocking(lambda writes: writes.add_endpoint(endpoint))
        name = parse_url(url).get_backend_name()
        rows = []
        for callers in ("event loop", "threads"):
            for count in clients:
                progress(f"{name}, {count} callers ({callers})")
                rows.append(_row(store, name, callers, count, number, endpoint.id))
        progress("holding every decision against the ledger")
        with store.reading() as connection:
            found = audit(connection).findings
        if found:
            raise UserError(f"The store does not hold what it acknowledged: {found[0]}")
        return rows
    finally:
        store.close()


def _row(store: DecisionStore, name: str, callers: str, clients: int, number: int, endpoint_id: str) -> Row:
    drive = _in_one_loop if callers == "event loop" else _in_threads
    floor = drive(store, lambda: _one_row, clients, number)
    commits = store.commits
    measured = drive(store, lambda: _decision(store, endpoint_id), clients, number)
    times = sorted(measured.times)
    return {
        "store": name,
        "callers": callers,
        "clients": clients,
        "per_s": round(len(times) / measured.elapsed_s),
        "floor_per_s": round(len(floor.times) / floor.elapsed_s),
        "ratio": round(floor.elapsed_s / measured.elapsed_s, 2),
        "p50_ms": round(times[len(times) // 2] * 1e3, 2),
        "p99_ms": round(times[len(times) * 99 // 100] * 1e3, 2),
        "processor_us": round(measured.processor_s / len(times) * 1e6),
        "commits": store.commits - commits,
    }


class _Measured:
    """Times of one drive, from the first call to the last answer."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._began, self._used = time.perf_counter(), time.process_time()
        self.elapsed_s = self.processor_s = 0.0

    def end(self) -> _Measured:
        self.elapsed_s = time.perf_counter() - self._began
        self.processor_s = time.process_time() - self._used
        return self


def _in_one_loop(store: DecisionStore, work_of: Callable[[], Work], clients: int, number: int) -> _Measured:
    async def client() -> None:
        for _ in range(number // clients):
            began = time.perf_counter()
            await store.once(TENANT, secrets.token_hex(16), _HASH, work_of())
            measured.times.append(time.perf_counter() - began)

    async def all_clients() -> None:
        await asyncio.gather(*(client() for _ in range(clients)))

    measured = _Measured()
    asyncio.run(all_clients())
    return measured.end()


def _in_threads(store: DecisionStore, work_of: Callable[[], Work], clients: int, number: int) -> _Measured:
    def client() -> None:
        for _ in range(number // clients):
            began = time.perf_counter()
            store.once_blocking(TENANT, secrets.token_hex(16), _HASH, work_of())
            measured.times.append(time.perf_counter() - began)

    measured = _Measured()
    with ThreadPoolExecutor(clients) as pool:
        for one in [pool.submit(client) for _ in range(clients)]:
            one.result()
    return measured.end()


def _one_row(writes: DecisionWrites) -> Response:
    """The floor: the remembered answer alone is written."""
    del writes
    return Response(status=200, body=b"{}")


def _decision(store: DecisionStore, endpoint_id: str) -> Work:
    record = DecisionRecord(
        id=store.new_id("dec"),
        tenant=TENANT,
        applicant="token",
        product="order-finance",
        amount=Decimal("120000.00"),
        currency="CNY",
        tenor_days=90,
        outcome="approved",
        reasons=(),
        rate=Decimal("0.0550"),
        policy_versions={"order-finance": "2026-11-01"},
        model_version="0" * 64,
        mode="released",
        inputs_hash=_HASH,
        document=_DOCUMENT,
        initial_status="approved",
        created_at=dt.datetime.now(dt.UTC),
    )

    def work(writes: DecisionWrites) -> Response:
        stored = writes.add_decision(record)
        writes.deliver(store.new_id("del"), endpoint_id, "decision.created", record.document)
        return Response(status=201, body=canonical_json({"id": record.id, "entry": stored.entry}))

    return work
