"""What a node checks before it answers a score: all of it before the look-up, and the same for every entity (C5)."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from nodes.revocations import RevocationStore
from nodes.scoring_alarms import Alarms
from nodes.scoring_journal import Journal, boot_id
from policies import documents
from policies.agreement import Agreement
from policies.errors import AgreementRefused
from policies.grants import Grant, GrantRefused, Revocations
from policies.scoring_policy import ScoringPolicy
from policies.token_key import TokenKey
from protos.masked_sum.request import Request, split_tokens
from protos.scoring.v1.scoring_pb2 import StoredDisclosure

log = logging.getLogger(__name__)

_DAY_S = 86_400
_KEPT_GRANTS = 4096


class ScoringRefused(Exception):
    """A request that this node does not answer.

    Attributes:
        code: For programs; `str()` is the sentence.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class _Summed:
    """Whose sum an entity was answered with: survivors, and the reach of the grant (`Grant.reach`)."""

    survivors: tuple[str, ...]
    reach: bytes


@dataclass
class _Charges:
    """What was answered, by the periods that budgets speak of; older periods are forgotten."""

    answers: dict[tuple[int, str], dict[bytes, int]] = field(default_factory=dict)
    by_requester: dict[tuple[int, str], int] = field(default_factory=dict)
    distinct: dict[tuple[int, str], set[bytes]] = field(default_factory=dict)
    unknown: dict[int, int] = field(default_factory=dict)

    def forget(self, first_window: Callable[[str], int], day: int) -> None:
        self.answers = {key: value for key, value in self.answers.items() if key[0] >= first_window(key[1])}
        self.by_requester = {key: value for key, value in self.by_requester.items() if key[0] >= day - 1}
        self.distinct = {key: value for key, value in self.distinct.items() if key[0] >= day - 1}


class ScoringGuard:
    """The owner's policy, the grant, the budgets and the roster lock, with what must survive in the journal.

    Args:
        policy: The owner's rules.
        agreement: The signed agreement.
        member: This node's id.
        journal: Read back here, appended to before anything leaves.
        revocations: Lists of void grants, kept on the disk.
        now: This node's own clock, Unix seconds.
        token_key: The members' key, with which a grant names who answers (C10).
    """

    def __init__(
        self,
        policy: ScoringPolicy,
        agreement: Agreement,
        member: str,
        journal: Journal,
        revocations: RevocationStore,
        now: Callable[[], float],
        *,
        token_key: TokenKey | None = None,
    ) -> None:
        self._policy = policy
        self._agreement = agreement
        self._member = member
        self._role = agreement.member(member).role
        self._token_key = token_key
        self._journal = journal
        self._revocations = revocations
        self.alarms = Alarms(journal, now)
        self._now = now
        self._charges = _Charges()
        self._locks: dict[bytes, tuple[float, _Summed]] = {}
        self._summed: dict[_Summed, _Summed] = {}
        self._grants: OrderedDict[bytes, Grant] = OrderedDict()
        self._pruned_day = -1
        self._read_back()

    def revoke(self, signed: bytes) -> Revocations:
        """Take up a pushed revocation list; an older one than the node has is ignored.

        Returns:
            The list that counts now; it is on the disk.

        Raises:
            GrantRefused: It is not signed by an issuer of this node's policy.
            SettingsRefused: It cannot be written.
        """
        return self._revocations.take(signed)

    def admit(
        self, request: Request, epoch_began_s: float, count_unknown: Callable[[], int]
    ) -> tuple[int, bool | list[bool]]:
        """Check a request and charge it.

        Nothing here looks an entity up in this node's rows before the last check, so that a refusal says nothing about
        them.

        Args:
            request: What is asked.
            epoch_began_s: When its keys were made.
            count_unknown: How many of its entities this node does not know; called once nothing can be refused.

        Returns:
            The journal's ticket of the charge, and whether the grant asks this node, or for which entities.

        Raises:
            ScoringRefused: The first rule that is not met.
        """
        now, policy = self._now(), self._policy
        self._check_time(request, now, epoch_began_s)
        if request.task not in policy.tasks:
            raise ScoringRefused("task", "expected a task that this node's scoring policy allows, found another")
        if request.purpose not in policy.purposes or request.purpose not in self._purposes_of(request.task):
            raise ScoringRefused(
                "purpose", "expected a purpose that agreement and scoring policy allow for the task, found another"
            )
        grant = self._grant(request, now)
        tokens = request.tokens
        try:
            answers = grant.answered_by(self._role, self._member, tokens, self._token_key)
        except GrantRefused as refused:
            raise ScoringRefused(refused.code, str(refused)) from refused
        self._check_locks(tokens, _Summed(request.roster, grant.reach), now, whole=False)
        self._charge(request, tokens, now)
        unknown = count_unknown() if request.task == documents.TASK else 0
        ticket = self._journal.append(
            StoredDisclosure(
                event=StoredDisclosure.CONTRIBUTED,
                at_ms=int(now * 1000),
                request_digest=request.digest,
                task=request.task,
                model_version=request.model_version,
                purpose=request.purpose,
                requester=request.requester,
                window=request.window,
                grant_id=grant.grant_id,
                survivors=request.roster,
                entities=request.entities,
                unknown=unknown,
                reach=grant.reach,
            ),
            flush=False,  # once the upload has left: it opens nothing, and shares wait for the flush
        )
        if unknown:
            self._watch_for_probing(unknown, int(now) // _DAY_S)
        return ticket, answers

    def lock(self, request: Request, survivors: tuple[str, ...]) -> int:
        """Fix the survivor set of the request's entities, before the shares leave (C2).

        Returns:
            The journal's ticket of the lock; 0 when the request's own entry says it already, up to a power cut.

        Raises:
            ScoringRefused: An entity was answered for other survivors, or under a grant of another reach, within the
                lock's time.
        """
        now = self._now()
        summed = _Summed(survivors, self._read_grant(request.grant).reach)
        self._check_locks(request.tokens, summed, now, whole=True)
        self._set_locks(request.tokens, summed, now)
        ticket = self._journal.append(
            StoredDisclosure(
                event=StoredDisclosure.OPENED,
                at_ms=int(now * 1000),
                request_digest=request.digest,
                survivors=survivors,
            ),
            flush=False,
        )
        # Written, it survives kill -9. A power cut may lose it; then the entry of S1, which is on the disk before
        # the answer leaves, is read as a lock on the whole roster. Other survivors must therefore reach the disk.
        return 0 if survivors == request.roster else ticket

    def _purposes_of(self, task: str) -> Collection[str]:
        """Purposes that the agreement foresees for a task; documents may be asked about for those of any task."""
        if task == documents.TASK:
            return {purpose for one in self._agreement.tasks for purpose in one.purposes}
        try:
            return self._agreement.task(task).purposes
        except AgreementRefused as error:
            raise ScoringRefused("task", str(error)) from error

    def _watch_for_probing(self, unknown: int, day: int) -> None:
        """Raise an alarm once a day if this node was asked about very many documents that it does not know (C8).

        It refuses nothing: a refusal that depends on what a node knows would tell the gateway what it knows (C5).
        """
        before = self._charges.unknown.get(day, 0)
        self._charges.unknown = {day: before + unknown}
        limit = self._policy.unknown_documents
        if before <= limit < before + unknown:
            self.alarms.raise_(
                f"more than {limit} documents were asked about today that this node does not know: somebody may be"
                " guessing fingerprints; look at the requesters in the journal"
            )

    def _check_time(self, request: Request, now: float, epoch_began_s: float) -> None:
        policy = self._policy
        skew = request.asked_at_ms / 1000 - now
        if abs(skew) > policy.max_clock_skew_s:
            raise ScoringRefused(
                "clock_skew",
                f"expected a request of this minute, found one {skew:+.0f} s from this node's clock; synchronise the "
                "clocks of gateway and nodes (NTP)",
            )
        window_s = policy.window_of(request.task)
        if request.window != request.asked_at_ms // 1000 // window_s:
            raise ScoringRefused("window", f"expected answer windows of {window_s} s, found another window number")
        if now - epoch_began_s > policy.max_epoch_s:
            raise ScoringRefused("epoch_expired", "expected a key epoch of today, found an older one; open a new one")

    def _grant(self, request: Request, now: float) -> Grant:
        """The request's grant, checked."""
        policy = self._policy
        grant = self._read_grant(request.grant)
        try:
            grant.check(purpose=request.purpose, tokens=request.tokens, now_s=now, skew_s=policy.max_clock_skew_s)
        except GrantRefused as refused:
            raise ScoringRefused(refused.code, str(refused)) from refused
        if self._revocations.revoked(grant.grant_id, grant.issuer):
            raise ScoringRefused("grant_revoked", "expected a grant that is in force, found a revoked one")
        return grant

    def _read_grant(self, signed: bytes) -> Grant:
        """A grant whose signature was verified, once for all requests that bring it."""
        grant = self._grants.get(signed)
        if grant is None:
            try:
                grant = Grant.read(signed, self._policy.issuer_keys)
            except GrantRefused as refused:
                raise ScoringRefused(refused.code, str(refused)) from refused
            self._grants[signed] = grant
            if len(self._grants) > _KEPT_GRANTS:
                self._grants.popitem(last=False)
        return grant

    def _check_locks(self, tokens: Sequence[bytes], summed: _Summed, now: float, *, whole: bool) -> None:
        """Refuse entities that were answered with another sum; before S2, for survivors outside the roster."""
        locks = self._locks
        for token in tokens:
            lock = locks.get(token)
            if lock is None or lock[0] <= now or lock[1] == summed:
                continue
            if lock[1].reach != summed.reach:  # also one of before, without a reach: nobody knows whose sum that was
                raise ScoringRefused(
                    "grant_reach",
                    "expected a grant with the roles and answering members of the one that this entity was answered"
                    " under before, found another; the difference of the two totals would show a role (ask again when"
                    " the lock has ended, or under the grant of before)",
                )
            if whole or not set(lock[1].survivors) <= set(summed.survivors):
                raise ScoringRefused(
                    "roster_locked",
                    "expected the survivors that this entity was answered for before, found others; the difference "
                    "of the two totals would show a member (ask again when the lock has ended)",
                )

    def _set_locks(self, tokens: Sequence[bytes], summed: _Summed, at_s: float) -> None:
        # One object for all entities of one sum.
        summed = self._summed.setdefault(summed, summed)
        until = at_s + self._policy.roster_lock_s
        for token in tokens:
            known = self._locks.get(token)
            if known is None or known[0] <= at_s:
                self._locks[token] = (until, summed)

    def _charge(self, request: Request, tokens: Sequence[bytes], now: float) -> None:
        policy, day = self._policy, int(now) // _DAY_S
        if day != self._pruned_day:
            self._pruned_day = day
            self._charges.forget(lambda task: int(now) // policy.window_of(task) - 1, day)
            self._locks = {token: lock for token, lock in self._locks.items() if lock[0] > now}
            self._summed = {lock[1]: lock[1] for lock in self._locks.values()}
        charges = self._charges
        answers = charges.answers.setdefault((request.window, request.task), {})
        if any(answers.get(token, 0) >= policy.answers_per_entity for token in tokens):
            raise ScoringRefused(
                "entity_budget",
                f"expected at most {policy.answers_per_entity} answers about an entity and task in a window, found "
                "one more asked for; the gateway keeps the answer",
            )
        asked = charges.by_requester.get((day, request.requester), 0) + len(tokens)
        if asked > policy.entities_per_requester:
            raise ScoringRefused("requester_budget", "expected fewer entities from this requester today, found more")
        distinct = charges.distinct.setdefault((day, request.purpose), set())
        new = sum(token not in distinct for token in tokens)
        if len(distinct) + new > policy.distinct_entities:
            raise ScoringRefused(
                "daily_cap", "expected fewer different entities today and for this purpose, found more"
            )
        self._record(request.window, request.task, request.purpose, request.requester, tokens, day)

    def _record(self, window: int, task: str, purpose: str, requester: str, tokens: Sequence[bytes], day: int) -> None:
        charges = self._charges
        answers = charges.answers.setdefault((window, task), {})
        for token in tokens:
            answers[token] = answers.get(token, 0) + 1
        charges.by_requester[day, requester] = charges.by_requester.get((day, requester), 0) + len(tokens)
        charges.distinct.setdefault((day, purpose), set()).update(tokens)

    def _read_back(self) -> None:
        """Charges and locks as the journal has them."""
        open_requests: dict[bytes, tuple[float, tuple[bytes, ...], _Summed]] = {}
        last_boot = ""
        for entry in self._journal.entries():
            at_s = entry.at_ms / 1000
            if entry.event == StoredDisclosure.STARTED:
                last_boot = entry.note
            elif entry.event == StoredDisclosure.CONTRIBUTED:
                tokens = split_tokens(entry.entities)
                open_requests[entry.request_digest] = (at_s, tokens, _Summed(tuple(entry.survivors), entry.reach))
                day = int(at_s) // _DAY_S
                self._record(entry.window, entry.task, entry.purpose, entry.requester, tokens, day)
                self._charges.unknown[day] = self._charges.unknown.get(day, 0) + entry.unknown
            elif entry.event == StoredDisclosure.OPENED and entry.request_digest in open_requests:
                _, tokens, asked = open_requests.pop(entry.request_digest)
                self._set_locks(tokens, _Summed(tuple(entry.survivors), asked.reach), at_s)
        if open_requests and (not last_boot or last_boot != boot_id()):
            # The machine has been down: an answer may have left whose own entry was lost.
            for at_s, tokens, asked in open_requests.values():
                self._set_locks(tokens, asked, at_s)
        self._journal.append(
            StoredDisclosure(event=StoredDisclosure.STARTED, at_ms=int(self._now() * 1000), note=boot_id())
        )
