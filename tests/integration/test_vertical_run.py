"""A vertical run over real node runtimes, stores, guards and the real driver; only the sockets are calls."""

import hashlib
import json
import secrets
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from coordinator.engine.grid_steps import GridSteps
from coordinator.sum_round import RunFailed
from coordinator.vertical_driver import VerticalDriver
from models.features import InputFeature
from models.metrics import auc
from models.newton import sigmoid
from models.vertical import VerticalSettings
from nodes.flower_app import client_app
from nodes.membership import Membership
from nodes.runtime import NodeRuntime
from nodes.service import CheckedAlignedRows
from nodes.settings import CsvSource
from nodes.store import NodeStore
from nodes.vertical import VerticalHandlers
from nodes.vertical_run import AlignedRows, VerticalStepRefused
from policies.agreement import Agreement, Task
from policies.guard import NodePolicy
from policies.presets import example_agreement
from protos.runs.v1 import vertical_pb2
from protos.sealed_sum.keys import SigningKey
from simulations.datasets.data_set import number
from simulations.in_process import InProcessGrid, TickingClock
from simulations.pooled_towers import PooledRows
from simulations.vertical_auditor import UnsafeVerticalAuditor

RUN = "vertical-0001"
ROLES = {"bank-a": "bank", "payer-a": "payment", "shipper-a": "logistics"}
COLUMNS = {"bank": ("fa", "fb"), "payment": ("fc", "fd"), "logistics": ("fe", "ff")}
POLICY = NodePolicy(
    format="tallystick-node-policy/1",
    tasks=("credit",),
    purposes=("credit-model-training",),
    methods=("vertical",),
    min_cohort=3,
    max_rounds=8,
    auto_cosign=True,
)


def made_rows(count, seed=1):
    generator = np.random.default_rng(seed)
    columns = {name: generator.uniform(0, 100, count) for names in COLUMNS.values() for name in names}
    z = (
        -2
        + 0.02 * columns["fa"]
        + 0.02 * columns["fc"]
        - 0.02 * columns["fe"]
        + (columns["fd"] > 60) * (columns["fc"] > 50)
    )
    return columns, (generator.random(count) < sigmoid(z)).astype(float)


class Consortium:
    """Three members of three roles and a coordinator."""

    def __init__(self, folder, *, count=6000, faults=None, policy=POLICY, visible=False, wrap=None):
        self.folder, self.policy = folder, policy
        self.columns, self.label = made_rows(count)
        self.identities = {m: SigningKey.from_bytes(secrets.token_bytes(32)) for m in ROLES}
        self.operator = SigningKey.from_bytes(secrets.token_bytes(32))
        base = example_agreement(
            {m: key.public_bytes for m, key in self.identities.items()},
            coordinator_key=self.operator.public_bytes,
            role="bank",
            features=tuple(number(n, "unit", 0, 100) for n in COLUMNS["bank"]),
            tasks=(
                Task(
                    name="credit",
                    label="bad",
                    label_role="bank",
                    horizon_months=12,
                    purposes=("credit-model-training",),
                ),
            ),
        )
        plain = base.model_dump(mode="json")
        for member in plain["members"]:
            member["role"] = ROLES[member["id"]]
        for role, names in COLUMNS.items():
            if role != "bank":
                plain["features"] += [
                    number(n, "unit", 0, 100).model_copy(update={"role": role}).model_dump(mode="json") for n in names
                ]
        plain["model"]["smoothness"] = 20.0
        plain["privacy"]["partial_scores_visible_to_label_holder"] = visible
        self.agreement = Agreement.model_validate_json(json.dumps(plain))
        self.stores = {m: NodeStore(folder / m, survives_power_cut=False) for m in ROLES}
        self.vertical = {m: self.handlers(m) for m in ROLES}
        self.clock = TickingClock()
        handles = {m: self.runtime(m).handle for m in ROLES}
        if wrap is not None:
            handles = {m: wrap(m, handle) for m, handle in handles.items()}
        grid = InProcessGrid({m: client_app(h) for m, h in handles.items()}, faults, wire=True)
        self.steps = GridSteps(grid, grid.node_ids, resend_after_s=1.0, clock=self.clock, pause=self.clock.pause)
        self.driver = VerticalDriver(self.agreement, self.operator, self.steps)

    def membership(self, member):
        return Membership(member, self.identities[member], self.agreement, self.policy)

    def rows(self, member):
        held = {n: self.columns[n] for n in COLUMNS[ROLES[member]]}
        label = self.label if member == "bank-a" else None
        return AlignedRows(held, np.ones(len(self.label)), label, hashlib.sha256(b"order").digest())

    def handlers(self, member):
        return VerticalHandlers(
            self.membership(member),
            lambda _proposal: self.rows(member),
            self.stores[member],
            rng=secrets.token_bytes,
            now=lambda: "2026-11-23T00:00:00+00:00",
        )

    def runtime(self, member):
        return NodeRuntime(
            self.membership(member),
            lambda _task: None,
            self.stores[member],
            rng=secrets.token_bytes,
            now=lambda: "2026-11-23T00:00:00+00:00",
            vertical=self.vertical[member],
        )

    def run(self, run_id=RUN, **changes):
        return self.driver.run(
            run_id,
            **{
                "task": "credit",
                "purpose": "credit-model-training",
                "label_holder": "bank-a",
                "feature_holders": ("payer-a", "shipper-a"),
                "passes": 4,
                **changes,
            },
        )

    def scores(self, columns, run_id=RUN):
        total = 0.0
        for handlers in self.vertical.values():
            run = handlers.run(run_id)
            tower, bias = run.trained if isinstance(run.trained, tuple) else (run.trained, 0.0)
            total = total + bias + tower.scores(run.basis.levels(columns))
        return total


@pytest.fixture
def found(tmp_path):
    made = []

    def build(**changes):
        made.append(Consortium(tmp_path / str(len(made)), **changes))
        return made[-1]

    yield build
    for consortium in made:
        for store in consortium.stores.values():
            store.close()


def test_three_nodes_train_towers_close_to_the_pooled_columns(found):
    consortium = found(count=12_000)
    outcome = consortium.run(passes=5, pairs=2)
    held, label = made_rows(6000, seed=2)
    features = {
        role: [InputFeature.from_terms(terms) for terms in consortium.agreement.features_of(role)]
        for role in ("bank", "payment", "logistics")
    }
    auditor = UnsafeVerticalAuditor(
        features,
        PooledRows(consortium.columns, consortium.label),
        PooledRows(held, label),
        VerticalSettings(passes=5, pairs=2),
    )
    reached = auc(label, consortium.scores(held))
    assert reached > auditor.auc_of(list(features)) - 0.006
    assert reached > auditor.auc_of(["bank"]) + 0.02
    assert outcome.passes == 5
    assert outcome.bytes_moved > 0
    asked, passes = consortium.stores["bank-a"].label_queries("credit", hashlib.sha256(b"order").digest())
    assert (passes, asked > 0) == (5, True)


def test_lost_and_doubled_messages_are_answered_with_the_same_bytes(found):
    seen = {}

    def watched(member, handle):
        def answer(action, body):
            reply = handle(action, body)
            seen.setdefault((member, action, body), set()).add(reply)
            return reply

        return answer

    def faults(member, action, attempt):
        if action in ("vertical-products", "vertical-fold", "vertical-residuals", "vertical-scores"):
            return {0: "late", 1: "duplicate", 3: "lost"}.get(attempt)
        return None

    consortium = found(faults=faults, wrap=watched)
    consortium.run()
    assert all(len(replies) == 1 for replies in seen.values())
    assert len([key for key in seen if key[1] == "vertical-fold"]) == 4


def test_b3_a_second_request_for_an_answered_pass_is_refused(found):
    consortium = found()
    consortium.run()
    again = vertical_pb2.VerticalFoldRequest(run_id=RUN, masked_products={"payer-a": b"x"})
    with pytest.raises(VerticalStepRefused, match="an answer is given once"):
        consortium.vertical["bank-a"].handlers["vertical-fold"](again.SerializeToString())


def test_b5_passes_over_the_same_labels_are_counted_over_runs_and_restarts(found):
    consortium = found()
    consortium.run(passes=5)
    consortium.vertical["bank-a"]._runs.clear()
    with pytest.raises(RunFailed, match="at most 8 passes over the labels"):
        consortium.run("vertical-0002", passes=4)


def test_b5_two_parties_need_the_flag_in_the_agreement(found):
    with pytest.raises(RunFailed, match="partial_scores_visible_to_label_holder"):
        found().run(feature_holders=("payer-a",))
    outcome = found(visible=True).run(feature_holders=("payer-a",), passes=2)
    assert outcome.proposal.cohort == ("bank-a", "payer-a")


def test_a_node_whose_policy_does_not_allow_vertical_runs_refuses(found):
    consortium = found(policy=POLICY.model_copy(update={"methods": ("newton",)}))
    with pytest.raises(RunFailed, match="GuardRefused"):
        consortium.run()


def test_a_run_for_another_purpose_is_refused(found):
    with pytest.raises(RunFailed, match="purpose"):
        found().run(purpose="marketing")


def test_a_feature_holder_cannot_be_made_the_label_holder(found):
    with pytest.raises(RunFailed, match="label holder of role 'bank'"):
        found().run(label_holder="payer-a", feature_holders=("bank-a", "shipper-a"))


def test_members_with_other_rows_do_not_open_a_session(found):
    consortium = found()
    rows = consortium.rows

    def other(member):
        aligned = rows(member)
        return AlignedRows(aligned.columns, aligned.known, aligned.label, bytes(32)) if member == "payer-a" else aligned

    consortium.rows = other
    with pytest.raises(RunFailed, match="align first"):
        consortium.run()


def test_a10_a_changed_announcement_is_refused(found):
    def wrap(member, handle):
        def answer(action, body):
            if action == "vertical-open" and member == "shipper-a":
                request = vertical_pb2.VerticalOpenRequest.FromString(body)
                request.announcements[2] = request.announcements[1]
                body = request.SerializeToString()
            return handle(action, body)

        return answer

    with pytest.raises(RunFailed, match="A10"):
        found(wrap=wrap).run()


def test_a_node_that_lost_its_session_says_so(found):
    consortium = found()

    def forget(action, **_):
        if action == "pass":
            consortium.vertical["payer-a"]._runs.clear()

    consortium.driver._announce = forget
    with pytest.raises(RunFailed, match="session is lost when a node restarts"):
        consortium.run()


def test_the_coordinator_relays_no_score_residual_or_column_in_the_clear(found):
    relayed = []

    def wrap(_member, handle):
        def answer(action, body):
            reply = handle(action, body)
            relayed.append((action, body, reply))
            return reply

        return answer

    consortium = found(wrap=wrap)
    consortium.run(passes=3)
    # What a recording coordinator has of the first feature holder's scores looks uniform: one bit in two is set.
    masked = [reply for action, _, reply in relayed if action == "vertical-scores" and len(reply) > 1000]
    assert masked
    for reply in masked:
        bits = np.unpackbits(np.frombuffer(reply[200:-200], dtype=np.uint8))
        assert abs(bits.mean() - 0.5) < 0.01
    for action, _, reply in relayed:
        if action in ("vertical-residuals", "vertical-products") and len(reply) > 10_000:
            bits = np.unpackbits(np.frombuffer(reply[200:-200], dtype=np.uint8))
            assert abs(bits.mean() - 0.5) < 0.03


def test_a_node_reads_its_own_role_of_a_vertical_run_from_its_source(found, tmp_path):
    consortium = found(count=400)
    ids = [f"e{at:04d}" for at in range(400)]
    frame = pd.DataFrame({"entity_id": ids, **consortium.columns, "bad": consortium.label.astype(int)})
    proposal = SimpleNamespace(task="credit", label_holder="bank-a")
    aligned = {}
    for member, role in ROLES.items():
        held = ["entity_id", *COLUMNS[role], *(["bad"] if role == "bank" else [])]
        frame.sample(frac=1, random_state=3)[held].to_csv(tmp_path / f"{member}.csv", index=False)
        source = CsvSource(kind="csv", path=tmp_path / f"{member}.csv")
        settings = SimpleNamespace(opened_source=lambda _environ, source=source: source)
        aligned[member] = CheckedAlignedRows(consortium.membership(member), settings)(proposal)
    assert len({rows.alignment_digest for rows in aligned.values()}) == 1
    assert {len(rows.known) for rows in aligned.values()} == {len(aligned["bank-a"].label)}
    assert aligned["payer-a"].label is None
    assert set(aligned["shipper-a"].columns) == set(COLUMNS["logistics"])
