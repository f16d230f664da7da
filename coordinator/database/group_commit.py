"""One thread writes, and commits what many callers wait for at once.

A commit that is on the disk takes as long for one decision as for thirty. While one commit is on its way, the next
callers' work queues up, and shares the next: that is the whole of it; nobody waits for company. A caller whose work
is refused harms nobody: its rows are taken out again, or, where they were sent already, everybody's work of that
transaction is done once more, each in a transaction of its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from coordinator.database.errors import RecordRefused, StoreBusy, StoreUnavailable
from coordinator.database.transaction import Transaction
from policies.closed_model import one_line

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_BATCH: Final = 64
MAX_WAITING: Final = 1024


@dataclass(frozen=True)
class _Waiting(Generic[T]):
    """Work that waits for its turn, and who waits for it."""

    work: Callable[[Transaction], T]
    caller: Future[T] | asyncio.Future[T]


_Outcome = tuple[Any, BaseException | None]


class _OneByOne(Exception):
    """Work that failed has rows in the common transaction already."""


class GroupCommit:
    """Runs work in transactions on a thread of its own; safe to use from any thread and any event loop.

    Work may be run again after its transaction was rolled back, so it must do nothing but read and write through the
    `Transaction`. It holds up everybody: no network, no waiting.

    Args:
        engine: A writing engine; this object alone uses it.
        max_batch: Most pieces of work in one commit.
        max_waiting: Most pieces of work that may wait; more are refused at once (back-pressure).
    """

    def __init__(self, engine: Engine, *, max_batch: int = MAX_BATCH, max_waiting: int = MAX_WAITING) -> None:
        self._engine = engine
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._queue: deque[_Waiting[Any]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.commits = 0
        """Transactions committed so far."""
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pieces of work that wait now."""
        return len(self._queue)

    async def commit(self, work: Callable[[Transaction], T]) -> T:
        """Run work and return its result once it is committed, on the disk.

        A caller that is cancelled does not take its work back.

        Raises:
            StoreBusy: Too much waits already.
            StoreUnavailable: The database cannot be written now, or is being closed.
            RecordRefused: A row breaks a rule of the tables.
            Exception: Whatever `work` raises; nothing of it is then written.
        """
        caller: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._enqueue(_Waiting(work, caller))
        return await caller

    def commit_blocking(self, work: Callable[[Transaction], T]) -> T:
        """As `commit`, for callers with a thread of their own."""
        caller: Future[T] = Future()
        self._enqueue(_Waiting(work, caller))
        return caller.result()

    def close(self) -> None:
        """Finish what was accepted, and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _enqueue(self, waiting: _Waiting[Any]) -> None:
        with self._changed:
            if self._closed:
                raise StoreUnavailable("The store of decisions is being closed; send the request again later.")
            if len(self._queue) >= self._max_waiting:
                raise StoreBusy(self._max_waiting)
            self._queue.append(waiting)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._queue)
                if not self._queue:
                    return
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._max_batch))]
            _deliver(batch, self._outcomes(batch))

    def _outcomes(self, batch: Sequence[_Waiting[Any]]) -> list[_Outcome]:
        """One for each piece of work; never raises, since this thread serves everybody."""
        try:
            return self._together(batch)
        except _OneByOne:
            return [self._outcomes([one])[0] for one in batch]
        except Exception as problem:
            log.exception("a transaction of %d", len(batch))
            return [(None, _translated(problem))] * len(batch)

    def _together(self, batch: Sequence[_Waiting[Any]]) -> list[_Outcome]:
        alone = len(batch) == 1
        with self._engine.connect() as connection, connection.begin() as begun:
            transaction = Transaction(connection)
            outcomes: list[_Outcome] = []
            for one in batch:
                mark = transaction.mark()
                try:
                    outcomes.append((one.work(transaction), None))
                except Exception as problem:  # it belongs to whoever asked, see `_deliver`
                    if alone:
                        begun.rollback()
                        return [(None, _translated(problem))]
                    if isinstance(problem, sa.exc.SQLAlchemyError) or not transaction.back_to(mark):
                        raise _OneByOne from problem
                    outcomes.append((None, problem))
            try:
                transaction.finish()
            except sa.exc.SQLAlchemyError as problem:
                if alone:
                    begun.rollback()
                    return [(None, _translated(problem))]
                raise _OneByOne from problem
            begun.commit()  # a failure here is final: what was sent may be there, and must not be sent again
        self.commits += 1
        return outcomes


def _translated(problem: Exception) -> Exception:
    """A database's error as one of ours; any other as it is."""
    if not isinstance(problem, sa.exc.SQLAlchemyError):
        return problem
    # A statement's own error that is not the driver's: a value that a column's type refuses.
    refused = isinstance(problem, sa.exc.StatementError) and not isinstance(problem, sa.exc.DBAPIError)
    if refused or isinstance(problem, sa.exc.IntegrityError | sa.exc.DataError):
        return RecordRefused(
            f"Expected rows that the tables allow, found one that they do not ({_first_line(problem)}); correct it."
        )
    return StoreUnavailable(
        f"Expected the decisions' database to take a write, found {_first_line(problem)};"
        " send the request again with the same Idempotency-Key."
    )


def _first_line(problem: sa.exc.SQLAlchemyError) -> str:
    orig = getattr(problem, "orig", None) or problem
    return one_line(str(orig).partition("\n")[0])[:160]


def _deliver(batch: Sequence[_Waiting[Any]], outcomes: Sequence[_Outcome]) -> None:
    """Hand every caller its outcome; one wake-up for each event loop, not for each caller."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], _Outcome]]] = {}
    for one, outcome in zip(batch, outcomes, strict=True):
        if isinstance(one.caller, Future):
            _settle(one.caller, outcome)
        else:
            by_loop.setdefault(one.caller.get_loop(), []).append((one.caller, outcome))
    for loop, settled in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle_all, settled)
        except RuntimeError:  # the loop is closed: its callers are gone, and what they asked for is committed
            log.warning("%d callers were gone before their commit", len(settled))


def _settle_all(settled: Sequence[tuple[asyncio.Future[Any], _Outcome]]) -> None:
    for future, outcome in settled:
        _settle(future, outcome)


def _settle(future: Future[Any] | asyncio.Future[Any], outcome: _Outcome) -> None:
    if future.done():  # cancelled by its caller
        return
    result, problem = outcome
    if problem is None:
        future.set_result(result)
    else:
        future.set_exception(problem)
