"""Federated scores: one masked sum over the nodes' streams for what was asked, opened once, kept for the window."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from coordinator.revocations import RevocationLists
from coordinator.scoring_answers import Answer, NotAnswered, Opened, Question, release
from coordinator.scoring_opening import GatewaySettings, NothingOpened, Opener
from coordinator.scoring_store import AnswerStore, Terms
from models.score_slots import ScoreSlots
from policies.agreement import Agreement
from policies.grants import Grant, GrantRefused
from protos.masked_sum.request import TOKEN_BYTES, Request, split_tokens

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
"""Attempts that opened nothing: no node was asked for a share yet, so that another cannot be a difference."""

FORGET_EVERY_S = 60.0
CLOCK_SKEW_S = 120.0
"""What a grant's beginning may lie ahead of this clock, as nodes allow it by default."""

Key = tuple[bytes, str, str, int]


class _Cached(NamedTuple):
    """Where an entity's answer is, or is going to be, and under which terms."""

    opened: asyncio.Future[Opened]
    row: int
    terms: Terms


class _Lock(NamedTuple):
    """Whose sums alone may be opened for an entity."""

    until_s: float
    survivors: tuple[str, ...]
    reach: bytes


class ScoringGateway:
    """Opens totals and keeps them. All calls come from one event loop, construction too.

    Args:
        agreement: The signed agreement.
        layouts: Task -> slots of one entity.
        store: What was kept before; written to before shares are asked for and before an answer leaves.
        revocations: Lists of void grants.
        settings: Deadlines.
        now: Clock, Unix seconds.
    """

    def __init__(
        self,
        agreement: Agreement,
        layouts: Mapping[str, ScoreSlots],
        store: AnswerStore,
        revocations: RevocationLists,
        settings: GatewaySettings | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._agreement = agreement
        self._layouts = layouts
        self._store = store
        self._revocations = revocations
        self._settings = settings or GatewaySettings()
        self._now = now
        self._answers: dict[Key, _Cached] = {}
        self._locks: dict[bytes, _Lock] = {}
        self._issuers: set[bytes] = set()
        self._told = store.last_disclosure
        self._forget_at_s = 0.0
        self._opener = Opener(agreement, self._settings, now)
        self.streams = self._opener.streams
        self.streams.at_connect = lambda: revocations.signed
        self._take_up()

    def layout(self, task: str) -> ScoreSlots:
        """Slots of a task.

        Raises:
            NotAnswered: The gateway serves no such task.
        """
        found = self._layouts.get(task)
        if found is None:
            raise NotAnswered("task", f"expected a task that is served ({', '.join(self._layouts)}), found another")
        return found

    def silent_roles(self, survivors: Sequence[str]) -> tuple[str, ...]:
        """Roles with a member that is not among the survivors: the answer is degraded."""
        return tuple(sorted({m.role for m in self._agreement.members if m.id not in survivors}))

    async def score(self, question: Question, tokens: Sequence[bytes]) -> list[Answer]:
        """Answers for these entities, in order; entities of this window that were answered before come from the cache.

        Raises:
            NotAnswered: Nothing is opened, with the reason.
        """
        if not tokens or any(len(token) != TOKEN_BYTES for token in tokens):
            raise NotAnswered("entities", f"expected entity tokens of {TOKEN_BYTES} bytes each, found others")
        self.layout(question.task)
        terms = _terms(question)
        now = self._now()
        window = self._settings.window(question.task, now)
        if now >= self._forget_at_s:
            self._forget(now)
        keys = [(token, question.task, question.model_version, window) for token in tokens]
        known = self._answers
        cached = [key in known for key in keys]
        _require_same_terms((known[key].terms for key in keys if key in known), terms)
        new = list(dict.fromkeys(token for token, found in zip(tokens, cached, strict=True) if not found))
        for survivors, group in self._groups(new, terms.reach):
            task = asyncio.ensure_future(self._open(question, group, survivors, window))
            for row, token in enumerate(group):
                known[token, question.task, question.model_version, window] = _Cached(task, row, terms)
        found = [known[key] for key in keys]
        try:
            for future in dict.fromkeys(one.opened for one in found):
                # Shielded: other clients may wait for the same total.
                await asyncio.shield(future)
        finally:
            self._drop_failed(keys, found)
        if any(cached):
            asked = [token for token, one in zip(tokens, cached, strict=True) if one]
            self._check_grant(question, asked, now)
        return [Answer(one.opened.result(), one.row, from_cache) for one, from_cache in zip(found, cached, strict=True)]

    def _drop_failed(self, keys: Sequence[Key], found: Sequence[_Cached]) -> None:
        for key, one in zip(keys, found, strict=True):
            failed = one.opened.done() and (one.opened.cancelled() or one.opened.exception() is not None)
            if failed and self._answers.get(key) is one:
                del self._answers[key]

    def _groups(self, tokens: Sequence[bytes], reach: bytes) -> list[tuple[tuple[str, ...], list[bytes]]]:
        """Entities by the survivor set they were answered for within the lock's time; () is no such set.

        Raises:
            NotAnswered: One of them was answered under a grant of another reach.
        """
        now, groups = self._now(), {}  # type: ignore[var-annotated]  # filled below
        for token in tokens:
            lock = self._locks.get(token)
            if lock is None or lock.until_s <= now:
                groups.setdefault((), []).append(token)
                continue
            if lock.reach != reach:
                raise _other_reach()
            groups.setdefault(lock.survivors, []).append(token)
        return list(groups.items())

    def _check_grant(self, question: Question, tokens: Sequence[bytes], now: float) -> None:
        """What the nodes would check, for answers that they are not asked for again.

        Whose grants count is the nodes' business: only issuers whose grants they have accepted count here.

        Raises:
            NotAnswered: The grant does not allow the use, or not any more.
        """
        try:
            grant = Grant.read(question.grant, self._issuers)
            grant.check(purpose=question.purpose, tokens=tokens, now_s=now, skew_s=CLOCK_SKEW_S)
        except GrantRefused as refused:
            raise NotAnswered(refused.code, str(refused)) from refused
        if self._revocations.revoked(grant.grant_id, grant.issuer):
            raise NotAnswered("grant_revoked", "expected a grant that is in force, found a revoked one")

    def revoke(self, signed: bytes) -> bool:
        """Keep a revocation list and push it to every node; false if a newer one is known.

        Raises:
            GrantRefused: It is no list, or not signed by the issuer that it names.
            SettingsRefused: It cannot be written.
        """
        newer = self._revocations.add(signed)
        if newer:
            self.streams.push_revocations(signed)
        return newer

    def look_for_revocations(self) -> None:
        """Push what was put into the folder of revocation lists since."""
        try:
            fresh = self._revocations.refresh()
        except OSError as error:
            log.warning("the folder of revocation lists cannot be read: %s", error.strerror)
            return
        for signed in fresh:
            self.streams.push_revocations(signed)

    def disclose(self) -> None:
        """Tell the nodes what the log says of openings since the last time (C2)."""
        if self._told < self._store.last_disclosure:
            try:
                entries = self._store.disclosures(self._told)
            except sqlite3.Error as error:
                log.warning("the log of openings cannot be read: %s", error)
                return
            self.streams.tell(entries)
            self._told = self._store.last_disclosure

    def checkpoint(self) -> None:
        """Have what was written on the disk; from any thread."""
        try:
            self._store.checkpoint()
        except sqlite3.Error as error:
            log.warning("the gateway's file could not be checkpointed: %s", error)

    def close(self) -> None:
        """Close what was opened for answers; streams end with their server."""
        self.streams.stop()
        self._store.close()

    def _take_up(self) -> None:
        """Answers and survivor sets of a gateway that ran before."""
        now, loop = self._now(), asyncio.get_running_loop()
        for kept in self._store.kept():
            tokens, answers = split_tokens(kept.tokens), None
            if kept.opened is not None:
                self._issuers.add(kept.terms.issuer)
            if kept.opened is not None and kept.window >= self._settings.window(kept.task, now):
                answers = loop.create_future()
                answers.set_result(kept.opened)
            for row, token in enumerate(tokens):
                if kept.locked_until_s > now:
                    self._locks[token] = _Lock(kept.locked_until_s, kept.survivors, kept.terms.reach)
                if answers is not None:
                    key = (token, kept.task, kept.model_version, kept.window)
                    self._answers[key] = _Cached(answers, row, kept.terms)

    def _forget(self, now: float) -> None:
        """Drop what no window and no lock needs."""
        current = {task: self._settings.window(task, now) for task in self._layouts}
        self._answers = {key: value for key, value in self._answers.items() if key[3] >= current[key[1]]}
        self._locks = {token: lock for token, lock in self._locks.items() if lock.until_s > now}
        self._forget_at_s = now + FORGET_EVERY_S
        try:
            self._store.forget(now)
        except sqlite3.Error as error:
            log.warning("old answers could not be deleted: %s", error)

    async def _open(
        self, question: Question, tokens: Sequence[bytes], survivors: tuple[str, ...], window: int
    ) -> Opened:
        """Open one total, trying again as long as nothing was opened."""
        terms = _terms(question)
        layout = self.layout(question.task)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                summed = await self._opener.attempt(question, tokens, layout, survivors, window, self._lock)
                break
            except NothingOpened as ended:
                once_more = ended.again or (ended.silent and attempt == 1)
                if not once_more or attempt == MAX_ATTEMPTS:
                    raise ended.reason from None
            # A member has come or gone: wait for the epoch that follows.
            await asyncio.sleep(0.2 * attempt)
        self._issuers.add(terms.issuer)
        released = release(summed.totals, layout, one_member_may_answer=terms.one_member)
        try:
            return self._store.opened(summed.opening, summed.request, summed.survivors, released, self._now())
        except sqlite3.Error as error:
            raise _not_written(error) from error

    def _lock(self, request: Request, survivors: tuple[str, ...]) -> int:
        """From here on a node may have locked these survivors: another set would be refused (C2).

        Raises:
            NotAnswered: It cannot be written down; then no share is asked for.
        """
        now, settings = self._now(), self._settings
        until = now + settings.lock_s
        window_end = settings.window_end_s(request.task, request.window)
        terms = Terms.of(Grant.claimed(request.grant))  # the nodes that answered have checked it
        try:
            opening = self._store.lock(
                request, survivors, terms, locked_until_s=until, kept_until_s=max(until, window_end)
            )
        except sqlite3.Error as error:
            raise _not_written(error) from error
        for token in request.tokens:
            lock = self._locks.get(token)
            if lock is None or lock.until_s <= now:
                self._locks[token] = _Lock(until, survivors, terms.reach)
        return opening


def _terms(question: Question) -> Terms:
    """What the question's grant says of itself."""
    try:
        return Terms.of(Grant.claimed(question.grant))
    except GrantRefused as refused:
        raise NotAnswered(refused.code, str(refused)) from refused


def _require_same_terms(kept: Iterable[Terms], asked: Terms) -> None:
    """Refuse an answer of before to a grant under which it would not have been given (C2, C6)."""
    for terms in kept:
        if terms.reach != asked.reach:
            raise _other_reach()
        if terms.one_member and not asked.one_member:
            raise NotAnswered(
                "grant_one_member",
                "expected a grant that lets a total over one knowing member be used, as the one that the kept answer"
                " was opened under, found one that does not; ask in the next window, or under the grant of before",
            )


def _other_reach() -> NotAnswered:
    return NotAnswered(
        "grant_reach",
        "expected a grant with the roles and answering members of the one that this entity was answered under before,"
        " found another; the difference of the two totals would show a role (ask again when the lock has ended, or"
        " under the grant of before)",
    )


def _not_written(error: sqlite3.Error) -> NotAnswered:
    log.error("the gateway's file cannot be written: %s", error)
    return NotAnswered(
        "gateway_store",
        "expected the gateway to write down what it opens, found that it cannot; nothing is answered until its disk"
        " is in order",
    )
