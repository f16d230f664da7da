"""A process that decides as fast as it can, sixteen callers at once, and says what was acknowledged, line by line.

Arguments: the database's URL, a name for this life's keys, and where to die: `never`, `sent` (rows are with the
database, not committed) or `committed` (nobody was told yet). SIGKILL, at the thirtieth transaction.
"""

import asyncio
import hashlib
import os
import signal
import sys

from conftest import ORIGIN, a_decision

from coordinator.database import group_commit
from coordinator.database.transaction import Transaction
from coordinator.decisions.records import Response
from coordinator.decisions.store import DecisionStore

DIES_AT = 30


def die_at(owner, name, *, after):
    original, count = getattr(owner, name), iter(range(1, 1 << 30))

    def mortal(*arguments):
        result = original(*arguments) if after else None
        if next(count) == DIES_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return result if after else original(*arguments)

    setattr(owner, name, mortal)


def request_hash(key):
    return hashlib.sha256(key.encode()).digest()


async def decide(store, life, caller):
    for number in range(1 << 30):
        key = f"{life}-{caller}-{number}"

        def work(writes, number=number):
            stored = writes.add_decision(a_decision(store, number))
            writes.deliver(store.new_id("del"), "end-1", "decision", stored.record.document)
            return Response(status=201, body=f"{stored.record.id} {stored.entry}".encode())

        answer = await store.once("acme", key, request_hash(key), work)
        os.write(1, f"{key} {answer.body.decode()}\n".encode())


async def run(url, life, where):
    if where == "sent":
        die_at(Transaction, "finish", after=True)
    elif where == "committed":
        die_at(group_commit, "_deliver", after=False)
    store = DecisionStore.open(url, origin=ORIGIN)
    await asyncio.gather(*(decide(store, life, caller) for caller in range(16)))


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
