"""The store of decisions on SQLite and PostgreSQL: together or not at all, exact, and one tenant's own."""

import asyncio
import datetime as dt
import hashlib
import stat
import threading
from decimal import Decimal

import pytest
import sqlalchemy as sa

from coordinator.database.errors import RecordRefused, StoreBusy, StoreUnavailable
from coordinator.decisions.errors import (
    DecisionUnknown,
    EventConflict,
    IdempotencyConflict,
    OfferClosed,
    ReviewRefused,
    StatusConflict,
)
from coordinator.decisions.records import InboundEvent, Response, WebhookEndpoint
from coordinator.decisions.store import EVERY_TENANT
from coordinator.ledger.entries import DecisionEntry, DisclosureEntry, parse_entry
from coordinator.ledger.log import Log

NOW = dt.datetime(2026, 11, 25, 12, 0, tzinfo=dt.UTC)
HASH = hashlib.sha256(b"request").digest()


def size(store):
    with store.reading() as connection:
        return Log(connection).head().size


def entry(store, number):
    with store.reading() as connection:
        return parse_entry(Log(connection).entry(number).body)


# -- decisions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", ["0.10", "5000000.00", "12345678901234567890.123456789012345678", "1E+3", "0"])
def test_an_amount_comes_back_with_every_digit_that_was_given(decide, store, amount):
    stored = decide(amount=Decimal(amount))

    found = store.decision("acme", stored.record.id).record.amount

    assert format(found, "f") == format(Decimal(amount), "f")


def test_a_decision_comes_back_as_it_was_written(decide, store, reopen):
    stored = decide(7, outcome="declined", reasons=("R07", "R01"), rate=None, initial_status="declined")

    assert store.decision("acme", stored.record.id) == stored
    assert reopen().decision("acme", stored.record.id) == stored


def test_a_decision_has_its_ledger_entry_which_says_nothing_that_can_be_read(decide, store):
    stored = decide(applicant="token-of-the-seller")

    found = entry(store, stored.entry)

    assert isinstance(found, DecisionEntry)
    assert found.policies == {"order-finance": "2026-11-01"}
    assert not any(
        secret in str(found) for secret in (stored.record.id, "acme", "token-of-the-seller", "120000.50", "approved")
    )


def test_equal_decisions_cannot_be_told_from_different_ones_in_the_ledger(decide, store, make):
    record = make.decision()
    first = decide(**{**vars(record), "id": "dec-1"})
    second = decide(**{**vars(record), "id": "dec-2"})

    one, other = entry(store, first.entry), entry(store, second.entry)

    assert {one.tenant, one.inputs, one.record}.isdisjoint({other.tenant, other.inputs, other.record})


def test_a_decline_without_reasons_cannot_be_stored(make, sql, decide):
    with pytest.raises(RecordRefused, match="expected a decline with its reasons"):
        make.decision(outcome="declined")
    stored = decide(outcome="declined", reasons=("R01",))
    with pytest.raises(sa.exc.IntegrityError):
        sql("update decisions set reasons = '[]' where id = :id", id=stored.record.id)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"amount": Decimal("NaN")}, "an amount of at least 0"),
        ({"amount": Decimal(-1)}, "an amount of at least 0"),
        ({"currency": "cny"}, "ISO 4217"),
        ({"tenor_days": -1}, "a tenor"),
        ({"inputs_hash": b"short"}, "32 bytes"),
        ({"document": "x" * (1 << 20 | 1)}, "characters"),
    ],
)
def test_a_record_out_of_range_is_refused_with_what_was_expected(make, wrong, expected):
    with pytest.raises(RecordRefused, match=expected):
        make.decision(**wrong)


def test_a_float_is_not_taken_for_an_amount(make, store):
    record = make.decision()
    object.__setattr__(record, "rate", 0.055)

    with pytest.raises(Exception, match="finite Decimal"):
        store.commit_blocking(lambda writes: writes.add_decision(record))
    assert store.decision("acme", record.id) is None


def test_a_naive_time_is_refused_before_it_means_another_moment(make, store):
    event = an_event(occurred_at=dt.datetime(2026, 11, 25))  # noqa: DTZ001 - the point

    with pytest.raises(RecordRefused, match="with its time zone"):
        store.commit_blocking(lambda writes: writes.add_event(event))


def test_a_tenant_sees_its_own_decisions_and_no_others(decide, store):
    mine, others = decide(1), decide(2, tenant="globex")

    assert store.decision("globex", mine.record.id) is None
    assert [one.record.id for one in store.decisions("globex").rows] == [others.record.id]
    assert store.transitions("globex", mine.record.id) == ()
    assert len(store.decisions(EVERY_TENANT).rows) == 2
    for move in (mine, others):
        wrong = "globex" if move is mine else "acme"
        with pytest.raises(DecisionUnknown):
            store.commit_blocking(
                lambda writes, one=move, tenant=wrong: writes.move(
                    tenant, one.record.id, expected="approved", to="frozen", actor="x", why="y"
                )
            )


def test_pages_go_through_all_decisions_once_newest_first(decide, store):
    written = [decide(number).record.id for number in range(7)]

    seen, before = [], None
    while True:
        page = store.decisions("acme", before=before, limit=3)
        seen += [one.record.id for one in page.rows]
        if page.next_before is None:
            break
        before = page.next_before

    assert seen == written[::-1]


def test_an_unknown_tenant_is_refused_and_leaves_nothing_in_the_ledger(make, store):
    before = size(store)

    with pytest.raises(RecordRefused):
        store.commit_blocking(lambda writes: writes.add_decision(make.decision(tenant="nobody")))

    assert size(store) == before


# -- transitions ----------------------------------------------------------------------------------------


def test_every_transition_says_who_when_and_why_and_has_its_entry(decide, store):
    stored = decide()

    def work(writes):
        writes.move("acme", stored.record.id, expected="approved", to="disbursed", actor="ops-1", why="contract signed")
        writes.move("acme", stored.record.id, expected="disbursed", to="frozen", actor="policy", why="rate moved 5 %")

    store.commit_blocking(work)

    first, second = store.transitions("acme", stored.record.id)
    assert (first.number, first.from_status, first.to_status, first.actor) == (1, "approved", "disbursed", "ops-1")
    assert (second.number, second.to_status, second.why) == (2, "frozen", "rate moved 5 %")
    assert [entry(store, one.entry).to for one in (first, second)] == ["disbursed", "frozen"]
    assert store.decision("acme", stored.record.id).status == "frozen"


def test_of_two_who_move_a_decision_from_one_status_one_is_told_that_it_moved(decide, store):
    stored = decide()

    def move(to):
        return lambda writes: writes.move(
            "acme", stored.record.id, expected="approved", to=to, actor="ops", why="a reason"
        )

    store.commit_blocking(move("disbursed"))
    with pytest.raises(StatusConflict, match="expected it to be 'approved', found 'disbursed'"):
        store.commit_blocking(move("withdrawn"))
    assert len(store.transitions("acme", stored.record.id)) == 1


# -- idempotency ----------------------------------------------------------------------------------------


def once(store, make, key="key-1", request_hash=HASH, **changes):
    def work(writes):
        stored = writes.add_decision(make.decision(**changes))
        return Response(status=201, body=stored.record.id.encode(), headers={"Location": "/v1/decisions/1"})

    return store.once_blocking("acme", key, request_hash, work)


def test_a_repeated_request_gets_the_answer_that_was_given_and_decides_nothing(store, make):
    first = once(store, make)
    again = once(store, make)

    assert (first.replayed, again.replayed) == (False, True)
    assert (again.status, again.body, again.headers) == (first.status, first.body, first.headers)
    assert len(store.decisions("acme").rows) == 1
    assert store.answered("acme", "key-1", HASH).body == first.body
    assert store.answered("globex", "key-1", HASH) is None


def test_another_request_under_a_used_key_is_refused(store, make):
    once(store, make)

    with pytest.raises(IdempotencyConflict):
        once(store, make, request_hash=hashlib.sha256(b"another").digest())
    with pytest.raises(IdempotencyConflict):
        store.answered("acme", "key-1", hashlib.sha256(b"another").digest())
    assert len(store.decisions("acme").rows) == 1


def test_a_hundred_requests_at_once_under_one_key_are_one_decision(store, make):
    async def storm():
        def work(writes):
            return Response(status=201, body=writes.add_decision(make.decision()).record.id.encode())

        return await asyncio.gather(*(store.once("acme", "key-1", HASH, work) for _ in range(100)))

    answers = asyncio.run(storm())

    assert len({answer.body for answer in answers}) == 1
    assert [answer.replayed for answer in answers].count(False) == 1
    assert len(store.decisions("acme").rows) == 1


def test_old_answers_are_forgotten_on_demand_and_new_ones_kept(store, make):
    once(store, make)

    assert store.commit_blocking(lambda writes: writes.forget_answers(writes.now - dt.timedelta(days=1))) == 0
    assert store.commit_blocking(lambda writes: writes.forget_answers(writes.now + dt.timedelta(days=1))) == 1
    assert store.answered("acme", "key-1", HASH) is None


# -- group commit ---------------------------------------------------------------------------------------


def hold_the_writer(store):
    """Keep the writer busy until the returned event is set, so that what comes next shares one transaction."""
    entered, release = threading.Event(), threading.Event()

    def work(_):
        entered.set()
        release.wait(30)

    holder = threading.Thread(target=store.commit_blocking, args=(work,))
    holder.start()
    entered.wait(30)

    def let_go():
        release.set()
        holder.join()

    return let_go


def together(store, units):
    """Outcome of each unit, all of them waiting when the writer comes to them."""

    async def run():
        let_go = hold_the_writer(store)
        tasks = [asyncio.ensure_future(store.commit(unit)) for unit in units]
        await asyncio.sleep(0)
        let_go()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(run())


def test_many_callers_share_a_commit_and_get_each_its_own_result(store, make):
    records = [make.decision(number) for number in range(40)]
    before = store.commits

    outcomes = together(store, [lambda writes, one=record: writes.add_decision(one) for record in records])

    assert [outcome.record.id for outcome in outcomes] == [record.id for record in records]
    assert store.commits - before == 2  # the holder's own, and one for all forty
    assert [outcome.entry for outcome in outcomes] == list(range(40))


class Broken(Exception):
    pass


def test_work_that_raises_takes_its_own_rows_back_and_nobody_elses(store, make):
    def broken(writes):
        writes.add_decision(make.decision(99, applicant="never"))
        raise Broken

    good = [make.decision(number) for number in range(2)]
    units = [lambda writes: writes.add_decision(good[0]), broken, lambda writes: writes.add_decision(good[1])]
    outcomes = together(store, units)

    assert isinstance(outcomes[1], Broken)
    assert [outcomes[0].entry, outcomes[2].entry] == [0, 1]
    assert size(store) == 2
    assert store.decisions("acme", applicant="never").rows == ()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_work_that_raises_behind_a_read_takes_its_own_rows_back_too(store, make, place):
    def broken(writes):
        record = make.decision(99, applicant="never")
        writes.add_decision(record)
        writes.decision("acme", record.id)  # sends what waits, other callers' rows among it
        raise Broken

    good = [make.decision(number) for number in range(2)]
    units = [lambda writes, one=record: writes.add_decision(one) for record in good]
    outcomes = together(store, [*units[:place], broken, *units[place:]])

    assert isinstance(outcomes.pop(place), Broken)
    assert [outcome.entry for outcome in outcomes] == [0, 1]
    assert size(store) == 2
    assert store.decisions("acme", applicant="never").rows == ()


def test_a_row_that_the_tables_refuse_harms_nobody_who_shares_its_commit(store, make):
    good = [make.decision(number) for number in range(2)]
    twice = make.decision(3, id=good[0].id)
    units = [lambda writes, one=record: writes.add_decision(one) for record in (good[0], twice, good[1])]

    outcomes = together(store, units)

    assert isinstance(outcomes[1], RecordRefused)
    assert [outcomes[0].record, outcomes[2].record] == good
    assert size(store) == 2


def test_entries_are_numbered_without_a_gap_when_two_stores_append_at_once(store, make, reopen):
    other = reopen()

    def fill(target):
        for number in range(30):
            record = make.decision(number)
            target.commit_blocking(lambda writes, one=record: writes.add_decision(one))

    threads = [threading.Thread(target=fill, args=(target,)) for target in (store, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with store.reading() as connection:
        log = Log(connection)
        assert [one.entry for one in log.entries(0, 100)] == list(range(60))
        assert log.head().root() == log.root(60)


def test_work_beyond_what_may_wait_is_refused_at_once(reopen):
    store = reopen(max_waiting=2)

    async def run():
        let_go = hold_the_writer(store)
        waiting = [asyncio.ensure_future(store.commit(lambda _: "done")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(StoreBusy, match="at most 2"):
            await store.commit(lambda _: "refused")
        let_go()
        return await asyncio.gather(*waiting)

    assert asyncio.run(run()) == ["done", "done"]


def test_closing_finishes_what_was_accepted_and_takes_no_more(reopen, make, store):
    other = reopen()
    record = make.decision()

    async def run():
        let_go = hold_the_writer(other)
        accepted = asyncio.ensure_future(other.commit(lambda writes: writes.add_decision(record)))
        await asyncio.sleep(0)
        closing = asyncio.get_running_loop().run_in_executor(None, other.close)
        let_go()
        await closing
        return await accepted

    assert asyncio.run(run()).record == record
    assert store.decision("acme", record.id) is not None
    with pytest.raises(StoreUnavailable, match="being closed"):
        other.commit_blocking(lambda _: None)


def test_a_caller_who_is_cancelled_does_not_take_a_committed_decision_back(store, make):
    record = make.decision()

    async def run():
        let_go = hold_the_writer(store)
        task = asyncio.ensure_future(store.commit(lambda writes: writes.add_decision(record)))
        await asyncio.sleep(0)
        task.cancel()
        let_go()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    store.commit_blocking(lambda _: None)  # behind it

    assert store.decision("acme", record.id) is not None


def test_a_connection_that_the_server_closed_is_made_anew(store, make, sql, decisions_url):
    if decisions_url.startswith("sqlite"):
        return  # there is no server
    backend = store.commit_blocking(
        lambda writes: writes._transaction.execute(sa.text("select pg_backend_pid()")).scalar_one()
    )
    sql("select pg_terminate_backend(:backend)", backend=backend)

    record = make.decision()
    assert store.commit_blocking(lambda writes: writes.add_decision(record)).record == record


def test_a_connection_that_dies_under_its_work_loses_that_work_alone(store, make, sql, decisions_url):
    if decisions_url.startswith("sqlite"):
        return

    def dying(writes):
        writes.add_decision(make.decision())
        backend = writes._transaction.execute(sa.text("select pg_backend_pid()")).scalar_one()
        sql("select pg_terminate_backend(:backend)", backend=backend)

    with pytest.raises(StoreUnavailable, match="same Idempotency-Key"):
        store.commit_blocking(dying)
    record = make.decision()
    assert store.commit_blocking(lambda writes: writes.add_decision(record)).entry == 0


def test_a_full_disk_refuses_a_decision_whole_and_the_next_one_that_fits_is_taken(store, make, decisions_url):
    if not decisions_url.startswith("sqlite"):
        return  # the server's disk is not ours to fill

    def limit(pages):
        return lambda writes: writes._transaction.execute(sa.text(f"pragma max_page_count = {pages}")).scalar_one()

    store.commit_blocking(limit(1))  # the file stays as large as it is, and grows no more
    with pytest.raises(StoreUnavailable, match="full"):
        store.commit_blocking(
            lambda writes: [writes.add_decision(make.decision(at, document="x" * 50_000)) for at in range(20)]
        )
    assert size(store) == 0
    store.commit_blocking(limit(1_000_000))

    record = make.decision()
    assert store.commit_blocking(lambda writes: writes.add_decision(record)).entry == 0


# -- events, offers, reviews, webhooks ------------------------------------------------------------------


def an_event(**changes):
    values = {
        "id": "evt-1",
        "tenant": "acme",
        "source_id": "payment-77",
        "kind": "payment-settled",
        "applicant": "token-1",
        "decision_id": None,
        "document": '{"amount":"10.00"}',
        "occurred_at": NOW,
        "received_at": NOW,
    }
    return InboundEvent(**{**values, **changes})


def test_an_event_reported_twice_is_one_event(store):
    first = store.commit_blocking(lambda writes: writes.add_event(an_event()))
    again = store.commit_blocking(lambda writes: writes.add_event(an_event(id="evt-2")))

    assert first is None
    assert again == an_event()


def test_an_events_id_is_its_tenants_own_and_cannot_name_another_event(store):
    store.commit_blocking(lambda writes: writes.add_event(an_event()))

    assert store.commit_blocking(lambda writes: writes.add_event(an_event(id="evt-2", tenant="globex"))) is None
    for other in ({"document": '{"amount":"11.00"}'}, {"kind": "refund"}):
        with pytest.raises(EventConflict, match="payment-77"):
            store.commit_blocking(lambda writes, one=other: writes.add_event(an_event(id="evt-3", **one)))


def test_a_settled_payment_makes_its_decision_and_its_offer_in_one_commit_and_once(store, make):
    def work(writes):
        if writes.add_event(an_event()) is not None:
            return None
        decision = writes.add_decision(make.decision())
        return writes.add_offer(make.offer(decision.record, event_id="evt-1"), decision)

    offer = store.commit_blocking(work)

    assert store.commit_blocking(work) is None
    assert store.offer("acme", offer.record.id) == offer
    assert store.offer("globex", offer.record.id) is None
    linked = entry(store, offer.entry), entry(store, offer.entry - 1)
    assert linked[0].decision == linked[1].decision


def test_an_offer_must_be_under_its_own_tenants_decision(store, make, decide):
    mine, others = decide(1), decide(2, tenant="globex")

    with pytest.raises(RecordRefused, match="of its tenant"):
        store.commit_blocking(lambda writes: writes.add_offer(make.offer(mine.record), others))


def test_an_offer_is_closed_once_and_open_ones_leave_out_what_has_expired(store, make, decide):
    decision = decide()
    soon = make.offer(decision.record, expires_at=dt.datetime(2026, 11, 1, tzinfo=dt.UTC))
    kept, taken = make.offer(decision.record), make.offer(decision.record)
    store.commit_blocking(lambda writes: [writes.add_offer(one, decision) for one in (soon, kept, taken)])

    store.commit_blocking(lambda writes: writes.close_offer("acme", taken.id, "accepted"))

    assert [one.record.id for one in store.offers("acme", open_only=True).rows] == [kept.id]
    assert len(store.offers("acme").rows) == 3
    for tenant, offer_id in (("acme", taken.id), ("globex", kept.id), ("acme", "off-none")):
        with pytest.raises(OfferClosed):
            store.commit_blocking(lambda writes, t=tenant, o=offer_id: writes.close_offer(t, o, "withdrawn"))


def test_the_maker_of_a_verdict_is_not_its_checker(store, decide, sql):
    decision = decide()
    store.commit_blocking(lambda writes: writes.open_review("rev-1", "acme", decision.record.id, "above 1 million"))

    def check(who):
        return lambda writes: writes.check("acme", "rev-1", checker=who, verdict="approve", why="agreed")

    with pytest.raises(ReviewRefused, match="that is proposed, found one that is open"):
        store.commit_blocking(check("ann"))
    store.commit_blocking(lambda writes: writes.propose("acme", "rev-1", maker="ann", verdict="approve", why="sound"))
    with pytest.raises(ReviewRefused, match="not its maker"):
        store.commit_blocking(check("ann"))
    closed = store.commit_blocking(check("bob"))

    assert (closed.status, closed.maker, closed.checker) == ("closed", "ann", "bob")
    assert store.reviews("acme", decision_id=decision.record.id) == (closed,)
    assert store.reviews("acme", unfinished=True) == store.reviews("globex") == ()
    with pytest.raises(ReviewRefused):
        store.commit_blocking(check("cyd"))
    with pytest.raises(sa.exc.IntegrityError):
        sql("update review_cases set checker = maker")


def test_a_delivery_is_committed_with_what_it_tells_of_and_tried_until_it_arrives(store, decide):
    endpoint = WebhookEndpoint(
        id="end-1", tenant="acme", url="https://acme.example/hook", key_id="k1", topics=("decision",), created_at=NOW
    )
    store.commit_blocking(lambda writes: writes.add_endpoint(endpoint))
    store.commit_blocking(lambda writes: writes.deliver("del-1", "end-1", "decision", '{"x":1}'))
    assert store.endpoints("acme") == (endpoint,)
    assert store.endpoints("globex") == ()

    (due,) = store.due_deliveries()
    later = due.created_at + dt.timedelta(days=3)
    store.commit_blocking(
        lambda writes: writes.delivery_ended("del-1", status=503, problem="busy", next_attempt_at=later)
    )
    assert (due.attempts, due.payload, due.endpoint) == (0, '{"x":1}', endpoint)
    assert store.due_deliveries() == ()
    store.commit_blocking(
        lambda writes: writes.delivery_ended("del-1", status=500, problem="still", next_attempt_at=writes.now)
    )
    (again,) = store.due_deliveries()
    assert (again.attempts, again.last_status, again.last_problem) == (2, 500, "still")
    store.commit_blocking(lambda writes: writes.delivery_ended("del-1", status=200, problem=None, next_attempt_at=None))
    assert store.due_deliveries() == ()


def test_a_disabled_endpoint_gets_nothing_more(store):
    endpoint = WebhookEndpoint(id="end-1", tenant="acme", url="https://x", key_id="k", topics=(), created_at=NOW)
    store.commit_blocking(lambda writes: writes.add_endpoint(endpoint))
    store.commit_blocking(lambda writes: writes.deliver("del-1", "end-1", "decision", "{}"))

    assert store.commit_blocking(lambda writes: writes.disable_endpoint("globex", "end-1")) is False
    assert len(store.due_deliveries()) == 1
    assert store.commit_blocking(lambda writes: writes.disable_endpoint("acme", "end-1")) is True
    assert store.due_deliveries() == ()
    assert store.endpoints("acme") == ()


def test_a_disclosure_stands_in_the_ledger_without_any_row(store):
    disclosure = DisclosureEntry(
        at="2026-11-25T09:00:00.000000Z",
        request="00" * 32,
        task="credit",
        model="m1",
        purpose="lending",
        roster=("bank-a", "bank-b", "bank-c"),
        survivors=("bank-a", "bank-b", "bank-c"),
        degraded=False,
    )

    number = store.commit_blocking(lambda writes: writes.append(disclosure))

    assert entry(store, number) == disclosure


def test_ids_sort_by_the_time_they_were_made(store):
    ids = [store.new_id("dec") for _ in range(20)]

    assert ids == sorted(ids)
    assert len(set(ids)) == 20


def test_the_store_answers_whether_its_database_does(store):
    store.check()


def test_the_sqlite_file_is_for_its_owner_alone(store, tmp_path):
    path = tmp_path / "decisions.sqlite"
    if path.exists():  # not on PostgreSQL
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
