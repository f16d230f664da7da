"""Who may start and end a run at a node: the operator proposes, a label holder co-signs, the owner's policy allows.

Adversary: a malicious coordinator, or somebody in its place, that makes any message it likes; where it signs as the
operator the test says so. Every refusal leaves the node as it was.
"""

import json

import pytest

from nodes.membership import Membership
from nodes.runtime import MessageRefused, NodeRuntime
from policies.agreement import Agreement, agreement_hash
from policies.errors import AgreementRefused, GuardRefused
from policies.proposal import (
    MAX_PROPOSAL_BYTES,
    MethodSettings,
    ProposalRefused,
    RunProposal,
    sign_as_cosigner,
    sign_as_operator,
    sign_end,
)
from protos.runs.v1 import runs_pb2
from protos.sealed_sum.keys import SigningKey
from simulations.in_process_consortium import DEFAULT_RUN_ID, WILLING_POLICY

VICTIM = "bank-1"
STRANGER = SigningKey.from_bytes(bytes([7] * 32))


class Attempt:
    """A run as it should be proposed to five members, and every way to propose it differently."""

    def __init__(self, consortium):
        self.consortium = consortium
        self.operator = consortium.operator
        self.members = consortium.members
        self.proposal = RunProposal(
            run_id=DEFAULT_RUN_ID,
            agreement_hash=agreement_hash(consortium.agreement).hex(),
            task="credit",
            purpose="credit-model-training",
            cohort=consortium.members,
            settings=MethodSettings(rounds=2),
            nonce="11" * 32,
        )

    def changed(self, **fields):
        return self.proposal.model_copy(update=fields)

    def message(self, proposal=None, *, operator=None, cosigner="bank-2", cosigner_key=None, **fields):
        raw = proposal if isinstance(proposal, bytes) else (proposal or self.proposal).to_bytes()
        key = cosigner_key or self.consortium.identities.get(cosigner, STRANGER)
        fields = {
            "proposal": raw,
            "operator_signature": sign_as_operator(raw, (operator or self.operator).private),
            "cosigner": cosigner,
            "cosignature": sign_as_cosigner(raw, key.private),
            **fields,
        }
        return runs_pb2.SignedProposal(**fields).SerializeToString()

    def join(self, body, member=VICTIM):
        return self.consortium.nodes[member].handle("join", body)

    def refused(self, body, error, match, *, actions=("cosign", "join")):
        node, store = self.consortium.nodes[VICTIM], self.consortium.node_stores[VICTIM]
        for action in actions:
            with pytest.raises(error, match=match):
                node.handle(action, body)
        assert store.runs() == []
        assert store.journal_entries() == []


@pytest.fixture
def attempt(found):
    return Attempt(found(5))


# ---- the operator's signature ----


def test_the_run_as_it_should_be_is_joined(attempt):
    assert runs_pb2.JoinReply.FromString(attempt.join(attempt.message())).announcement


def test_a_proposal_without_the_operators_signature_is_refused(attempt):
    for signature in (b"", bytes(64), bytes(10_000)):
        attempt.refused(
            attempt.message(operator_signature=signature), ProposalRefused, "signature by the operator named in"
        )


def test_a_proposal_signed_by_anybody_but_the_operator_is_refused(attempt):
    for key in (STRANGER, attempt.consortium.identities[VICTIM], attempt.consortium.identities["bank-2"]):
        attempt.refused(attempt.message(operator=key), ProposalRefused, "signature by the operator named in")


def test_a_cosignature_of_the_operator_is_no_operators_signature(attempt):
    raw = attempt.proposal.to_bytes()
    crossed = sign_as_cosigner(raw, attempt.operator.private)
    attempt.refused(attempt.message(operator_signature=crossed), ProposalRefused, "signature by the operator named in")


def test_a_proposal_changed_after_the_operator_signed_it_is_refused(attempt):
    signed = sign_as_operator(attempt.proposal.to_bytes(), attempt.operator.private)
    more = attempt.changed(settings=MethodSettings(rounds=99))
    attempt.refused(
        attempt.message(more, operator_signature=signed), ProposalRefused, "signature by the operator named in"
    )


# ---- the co-signature ----


def test_a_run_that_no_label_holder_cosigned_is_refused(attempt):
    missing = attempt.message(cosigner="", cosignature=b"")
    attempt.refused(missing, ProposalRefused, r"co-signature of a label holder .* found ''", actions=["join"])
    unsigned = attempt.message(cosignature=b"")
    attempt.refused(unsigned, ProposalRefused, "signature by label holder bank-2", actions=["join"])


def test_a_cosignature_from_outside_the_agreement_is_refused(attempt):
    named = attempt.message(cosigner="mallory")
    attempt.refused(named, ProposalRefused, "co-signature of a label holder .* found 'mallory'", actions=["join"])
    posing = attempt.message(cosigner_key=STRANGER)
    attempt.refused(posing, ProposalRefused, "signature by label holder bank-2", actions=["join"])


def test_the_operator_cannot_cosign_its_own_run(attempt):
    posing = attempt.message(cosigner_key=attempt.operator)
    attempt.refused(posing, ProposalRefused, "signature by label holder bank-2", actions=["join"])
    crossed = sign_as_operator(attempt.proposal.to_bytes(), attempt.consortium.identities["bank-2"].private)
    attempt.refused(
        attempt.message(cosignature=crossed), ProposalRefused, "signature by label holder bank-2", actions=["join"]
    )


def test_a_cosignature_under_another_run_is_refused(attempt):
    other = attempt.changed(run_id="run-00000002").to_bytes()
    carried = sign_as_cosigner(other, attempt.consortium.identities["bank-2"].private)
    attempt.refused(
        attempt.message(cosignature=carried), ProposalRefused, "signature by label holder bank-2", actions=["join"]
    )


def test_a_member_that_holds_no_label_neither_cosigns_nor_joins(attempt):
    """The first bank holds other columns in this agreement; the operator has its co-signature all the same."""
    terms = attempt.consortium.agreement.model_dump(mode="json")
    terms["members"][0]["role"] = "logistics"
    agreement = Agreement.model_validate_json(json.dumps(terms))
    consortium = attempt.consortium

    def node(member):
        membership = Membership(member, consortium.identities[member], agreement, WILLING_POLICY)
        store = consortium.node_stores[member]
        return NodeRuntime(membership, lambda _: consortium.data[member], store, rng=bytes, now=str)

    labelled = attempt.changed(agreement_hash=agreement_hash(agreement).hex(), cohort=consortium.members[1:])
    with pytest.raises(ProposalRefused, match=r"co-signature of a label holder \(bank-2, .*found 'bank-1'"):
        node("bank-2").handle("join", attempt.message(labelled, cosigner="bank-1"))
    both = attempt.message(labelled.model_copy(update={"cohort": consortium.members}))
    for action in ("cosign", "join"):
        with pytest.raises(ProposalRefused, match="found bank-1 beside them"):
            node("bank-1").handle(action, both)
    with pytest.raises(GuardRefused, match="this node"):
        node("bank-1").handle("cosign", attempt.message(labelled))
    assert consortium.node_stores["bank-2"].runs() == consortium.node_stores["bank-1"].runs() == []


# ---- agreement and policy; all of these the operator has signed ----


def test_a_run_under_another_agreement_is_refused(attempt):
    other = attempt.changed(agreement_hash="ab" * 32)
    attempt.refused(attempt.message(other), ProposalRefused, r"under agreement [0-9a-f]{16}.*found one under abab")


def test_the_hash_of_any_changed_term_is_another_agreement(attempt):
    terms = attempt.consortium.agreement.model_dump(mode="json")
    terms["privacy"]["allow_roster_change"] = True
    weaker = Agreement.model_validate_json(json.dumps(terms))
    other = attempt.changed(agreement_hash=agreement_hash(weaker).hex())
    attempt.refused(attempt.message(other), ProposalRefused, "all parties must hold the same signed agreement")


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"task": "fraud"}, AgreementRefused, "expected a task of the agreement"),
        ({"purpose": "marketing"}, GuardRefused, "expected a purpose"),
        ({"cohort": ("bank-1", "bank-2")}, GuardRefused, "cohort of at least 3"),
        ({"cohort": ("bank-2", "bank-3", "bank-4")}, GuardRefused, r"this node \(bank-1\) too"),
        ({"cohort": ("bank-1", "bank-2", "mallory")}, AgreementRefused, "expected a member of the agreement"),
        ({"settings": MethodSettings(rounds=8)}, GuardRefused, "1 to 7 rounds"),
        ({"settings": MethodSettings(method="fedadam", rounds=2)}, GuardRefused, "expected a method"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_agreement_or_owner_do_not_allow_is_refused_although_operator_and_label_holder_signed(
    found, changes, error, match
):
    policy = WILLING_POLICY.model_copy(update={"max_rounds": 7, "methods": ("newton", "fedavg")})
    attempt = Attempt(found(5, policy=policy))
    attempt.refused(attempt.message(attempt.changed(**changes)), error, match)


def test_a_cohort_shrunk_below_the_owners_floor_is_refused(found):
    attempt = Attempt(found(5, policy=WILLING_POLICY.model_copy(update={"min_cohort": 5})))
    four = attempt.changed(cohort=attempt.members[:4])
    attempt.refused(attempt.message(four), GuardRefused, "cohort of at least 5")


def test_a_node_whose_owner_cosigns_by_hand_does_not_cosign(found):
    attempt = Attempt(found(5, policy=WILLING_POLICY.model_copy(update={"auto_cosign": False})))
    attempt.refused(attempt.message(), ProposalRefused, "does not co-sign runs by itself", actions=["cosign"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"",
        lambda raw: b"{",
        lambda raw: raw + b" ",
        lambda raw: raw.replace(b'"task":', b'"task" :'),
        lambda raw: raw.replace(b'"nonce":"11', b'"nonce":"1G'),
        lambda raw: raw.replace(b'"rounds":2', b'"rounds":1e400'),
        lambda raw: raw.replace(b'"rounds":2', b'"rounds":2,"rounds":99'),
        lambda raw: raw.replace(b"{", b'{"extra":1,', 1),
        lambda raw: raw.replace(b'["bank-1",', b'["bank-1","bank-1",'),
        lambda raw: b"[" * 10_000,
        lambda raw: b"\xff\xfe" + raw,
        lambda raw: bytes(MAX_PROPOSAL_BYTES + 1),
    ],
    ids=range(12),
)
def test_a_malformed_proposal_gets_one_sentence_although_the_operator_signed_it(attempt, spoil):
    attempt.refused(attempt.message(spoil(attempt.proposal.to_bytes())), ProposalRefused, r"run proposal .*propose")


# ---- once joined ----


def test_the_terms_of_a_run_cannot_change_after_a_node_has_joined(attempt):
    first = attempt.join(attempt.message())
    record = attempt.consortium.node_stores[VICTIM].run(DEFAULT_RUN_ID)
    for changes in ({"settings": MethodSettings(rounds=3)}, {"nonce": "22" * 32}, {"cohort": attempt.members[:4]}):
        with pytest.raises(ProposalRefused, match="proposed before with other terms"):
            attempt.join(attempt.message(attempt.changed(**changes)))

    assert attempt.consortium.node_stores[VICTIM].run(DEFAULT_RUN_ID) == record
    assert attempt.join(attempt.message()) == first
    assert attempt.join(attempt.message(cosigner="bank-3")) == first


# ---- the end ----


def end(run_id=DEFAULT_RUN_ID, reason="finished", signature=b""):
    return runs_pb2.EndRequest(run_id=run_id, reason=reason, operator_signature=signature).SerializeToString()


def test_only_the_operator_ends_a_run_and_only_the_run_it_names(attempt):
    attempt.join(attempt.message())
    operator, node = attempt.operator.private, attempt.consortium.nodes[VICTIM]
    store = attempt.consortium.node_stores[VICTIM]
    before = store.run(DEFAULT_RUN_ID)
    for signature in (
        b"",
        bytes(64),
        sign_end(DEFAULT_RUN_ID, "finished", STRANGER.private),
        sign_end(DEFAULT_RUN_ID, "finished", attempt.consortium.identities["bank-2"].private),
        sign_end("run-00000002", "finished", operator),
        sign_end(DEFAULT_RUN_ID, "another reason", operator),
        sign_as_operator(b'["run-00000001", "finished"]', operator),
    ):
        with pytest.raises(ProposalRefused, match="signature by the operator"):
            node.handle("end", end(signature=signature))
    assert store.run(DEFAULT_RUN_ID) == before

    node.handle("end", end(signature=sign_end(DEFAULT_RUN_ID, "finished", operator)))
    assert store.run(DEFAULT_RUN_ID).phase == "ended"


def test_a_run_that_ended_does_not_begin_again(attempt):
    attempt.join(attempt.message())
    node = attempt.consortium.nodes[VICTIM]
    node.handle("end", end(signature=sign_end(DEFAULT_RUN_ID, "finished", attempt.operator.private)))
    bodies = {
        "join": attempt.message(),
        "cohort": runs_pb2.CohortRequest(run_id=DEFAULT_RUN_ID).SerializeToString(),
        "deal": runs_pb2.DealRequest(run_id=DEFAULT_RUN_ID).SerializeToString(),
        "contribute": runs_pb2.ContributeRequest(run_id=DEFAULT_RUN_ID).SerializeToString(),
        "seeds": runs_pb2.SeedsRequest(run_id=DEFAULT_RUN_ID).SerializeToString(),
        "shares": runs_pb2.SharesRequest(run_id=DEFAULT_RUN_ID).SerializeToString(),
        "artefact": runs_pb2.RunReference(run_id=DEFAULT_RUN_ID).SerializeToString(),
    }
    for restarted in (False, True):
        if restarted:
            attempt.consortium.restart_node(VICTIM)
        for action, body in bodies.items():
            with pytest.raises(MessageRefused, match=r"has ended at this node \(finished\); propose a new run"):
                attempt.consortium.nodes[VICTIM].handle(action, body)
