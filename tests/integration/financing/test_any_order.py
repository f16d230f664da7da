"""Use cases in any order: whatever is called when, the books stay right."""

import datetime as dt
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.decisions.store import EVERY_TENANT, DecisionStore
from coordinator.financing.statuses import STATUSES, STEPS
from coordinator.ledger.audit import audit
from policies.errors import UserError
from policies.lending.policy import DEFAULT_FOLDER

CAP = Decimal(5_000_000)

applicants = st.sampled_from(["a", "b"])
amounts = st.sampled_from(["15000.00", "400000.00", "1900000.00", "3000000.00"])
risks = st.sampled_from(["0.01", "0.03", "0.12", "0.5"])
tenants = st.sampled_from(["acme", "globex"])
nth = st.integers(0, 5)
steps = st.one_of(
    st.tuples(st.just("decide"), tenants, applicants, amounts, risks, st.integers(1, 6)),
    st.tuples(st.just("settle"), tenants, applicants, amounts, risks),
    st.tuples(st.just("accept"), tenants, nth),
    st.tuples(
        st.just("review"), tenants, nth, st.sampled_from(["approve", "decline"]), st.sampled_from(["mei", "ola"])
    ),
    st.tuples(st.just("disburse"), tenants, nth, amounts),
    st.tuples(st.just("signal"), tenants, nth, st.sampled_from(["7.00", "7.25", "8.00"])),
    st.tuples(st.just("repay"), tenants, nth, amounts),
    st.tuples(st.just("wait"), st.integers(1, 9)),
)


class Books:
    """Runs steps against a desk, remembering what there is to act on."""

    def __init__(self, desk, clock):
        self.desk, self.clock = desk, clock
        self.decisions, self.acknowledged = [], []

    def run(self, step):
        name, *arguments = step
        with suppress(UserError):  # a refusal is an answer; that nothing was written for it shows in the books
            getattr(self, name)(*arguments)

    def wait(self, days):
        self.clock.move(days=days)

    def decide(self, tenant, applicant, amount, pd, document):
        self.desk.scores.pd = pd
        answer = self.desk.decide(tenant, applicant={"id": applicant}, amount=amount, reference=f"PO-{document}")
        self.acknowledged.append(answer)
        self.decisions.append(answer["id"])

    def settle(self, tenant, applicant, amount, pd):
        self.desk.scores.pd = pd
        offer = self.desk.event(tenant, applicant={"id": applicant}, amount=amount)["offer"]
        if offer is not None:
            self.decisions.append(offer["decision"])

    def accept(self, tenant, which):
        offers, _ = self.desk.financing.offers(tenant)
        self.desk.accept(offers[which].id if which < len(offers) else "off-none", tenant=tenant)

    def review(self, tenant, which, verdict, checker):
        waiting = self.desk.financing.reviews(tenant, unfinished=True)
        if which < len(waiting):
            to_confirm = waiting[which].to_confirm
            if to_confirm is None:
                to_confirm = self.desk.propose(waiting[which].id, "mei", verdict, tenant=tenant)["to_confirm"]
            self.desk.confirm(waiting[which].id, checker, to_confirm, verdict, tenant=tenant)

    def disburse(self, tenant, which, amount):
        if which < len(self.decisions):
            self.desk.disburse(self.decisions[which], amount, tenant=tenant)

    def signal(self, tenant, which, rate):
        if which < len(self.decisions):
            self.desk.event(
                tenant, kind="rate", decision_id=self.decisions[which], rate_at_decision="7.00", rate_now=rate
            )

    def repay(self, tenant, which, amount):
        if which < len(self.decisions):
            self.desk.event(tenant, amount=amount, repays=self.decisions[which], applicant={"id": "other"})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=4, max_size=14))
def test_whatever_happens_in_whatever_order_the_books_stay_right(make_desk, clock, scores, script):
    clock.now = dt.datetime(2026, 11, 25, 9, tzinfo=dt.UTC)
    with TemporaryDirectory() as folder:
        store = DecisionStore.open(
            f"sqlite:///{Path(folder) / 'books.sqlite'}",
            origin="tallystick-ledger/books",
            clock=clock,
            survives_power_cut=False,
        )
        store.commit_blocking(lambda writes: [writes.add_tenant(name, name) for name in ("acme", "globex")])
        books = Books(make_desk(scores, store=store, policy=DEFAULT_FOLDER), clock)
        for step in script:
            books.run(step)
        check(store, books)
        store.close()


def check(store, books):
    # Every acknowledged decision is there, with the entry that the answer named; nothing was altered.
    for answer in books.acknowledged:
        assert store.decision(EVERY_TENANT, answer["id"]).entry == answer["ledger"]["entry"]
    with store.reading() as connection:
        assert audit(connection).findings == []
        rows = connection.exec_driver_sql("select * from facilities").mappings().all()
        claims = connection.exec_driver_sql(
            "select fingerprint, tenant_id, count(*) n from financed_evidence group by 1, 2"
        )
        # A tenant lends against a document once.
        assert all(row.n == 1 for row in claims)
    # Nobody owes more than the cap, and nothing went out beyond a limit.
    owed = {}
    for row in rows:
        granted, out, back = (Decimal(row[name]) for name in ("granted", "disbursed", "repaid"))
        assert 0 <= back <= out <= granted
        if row["is_open"]:
            owed[row["tenant_id"], row["applicant"]] = (
                owed.get((row["tenant_id"], row["applicant"]), 0) + granted - back
            )
    assert all(total <= CAP for total in owed.values())
    # Every decision went by steps that exist, and has a facility exactly if it was ever approved.
    facilities = {row["decision_id"] for row in rows}
    for decision in store.decisions(EVERY_TENANT, limit=500).rows:
        path = [decision.record.initial_status]
        for step in store.transitions(EVERY_TENANT, decision.record.id):
            assert step.from_status == path[-1]
            assert step.to_status in STEPS[step.from_status]
            path.append(step.to_status)
        assert decision.status == path[-1]
        assert set(path) <= set(STATUSES)
        assert (decision.record.id in facilities) == ("approved" in path)
