"""A run proposal: canonical bytes, and signatures that mean one thing each."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.proposal import (
    MAX_PROPOSAL_BYTES,
    MethodSettings,
    ProposalRefused,
    RunProposal,
    sign_as_cosigner,
    sign_as_operator,
    sign_end,
    verify_cosigner,
    verify_end,
    verify_operator,
)
from protos.sealed_sum.keys import SigningKey

KEY, OTHER = (SigningKey.from_bytes(bytes([number] * 32)) for number in (1, 2))
PROPOSAL = RunProposal(
    run_id="run-00000001",
    agreement_hash="ab" * 32,
    task="credit",
    purpose="credit-model-training",
    cohort=("bank-1", "bank-2", "bank-3"),
    settings=MethodSettings(),
    nonce="cd" * 32,
)
RAW = PROPOSAL.to_bytes()


def test_a_proposal_reads_back_from_its_canonical_bytes_and_nothing_else():
    assert RunProposal.from_bytes(RAW) == PROPOSAL
    assert json.dumps(json.loads(RAW), sort_keys=True, separators=(",", ":")).encode() == RAW
    for other in (RAW + b"\n", b" " + RAW, json.dumps(json.loads(RAW)).encode(), RAW.replace(b"0.02", b"0.020")):
        with pytest.raises(ProposalRefused, match="not in canonical form"):
            RunProposal.from_bytes(other)


@given(
    st.builds(
        MethodSettings,
        method=st.sampled_from(["newton", "fedavg", "fedprox", "fedadam"]),
        rounds=st.integers(1, 1000),
        learning_rate=st.floats(0, 100, exclude_min=True),
        clip=st.floats(0, 1000, exclude_min=True),
        seed=st.integers(0, 2**63 - 1),
    )
)
def test_every_allowed_setting_survives_the_canonical_form(settings):
    proposal = PROPOSAL.model_copy(update={"settings": settings})
    assert RunProposal.from_bytes(proposal.to_bytes()) == proposal


def test_every_field_is_in_the_digest():
    changes = {
        "run_id": "run-00000002",
        "agreement_hash": "ac" * 32,
        "task": "fraud",
        "further_tasks": ("fraud",),
        "purpose": "audit",
        "cohort": ("bank-1", "bank-2", "bank-4"),
        "nonce": "ce" * 32,
        **{
            f"settings.{name}": value
            for name, value in {
                "method": "fedavg",
                "rounds": 3,
                "local_epochs": 2,
                "batch_size": 7,
                "optimiser": "sgd",
                "learning_rate": 0.5,
                "proximal_mu": 0.5,
                "server_learning_rate": 0.5,
                "clip": 0.25,
                "target_parameters": 9,
                "seed": 9,
                "passes": 3,
                "pairs": 2,
            }.items()
        },
    }
    assert {name.removeprefix("settings.") for name in changes} == (
        set(RunProposal.model_fields) - {"format", "settings"}
    ) | set(MethodSettings.model_fields)
    digests = {PROPOSAL.digest()}
    for name, value in changes.items():
        setting = name.removeprefix("settings.")
        settings = PROPOSAL.settings.model_copy(update={setting: value})
        update = {name: value} if setting == name else {"settings": settings}
        digests.add(PROPOSAL.model_copy(update=update).digest())
    assert len(digests) == 1 + len(changes)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run_id", "short"),
        ("run_id", "../../etc/passwd"),
        ("run_id", "run-" + "x" * 100),
        ("agreement_hash", "AB" * 32),
        ("task", "credit; drop table runs"),
        ("purpose", ""),
        ("cohort", []),
        ("cohort", ["bank-2", "bank-1", "bank-3"]),
        ("cohort", ["bank-1", "bank-1", "bank-3"]),
        ("cohort", ["Bank-1"]),
        ("nonce", ""),
        ("format", "tallystick-run/2"),
        ("extra", 1),
    ],
)
def test_a_field_out_of_its_range_is_named_in_the_refusal(field, value):
    document = {**json.loads(RAW), field: value}
    raw = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ProposalRefused, match=rf"malformed at ({field}|proposal)") as refusal:
        RunProposal.from_bytes(raw)
    assert "passwd" not in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "sgd"),
        ("rounds", 0),
        ("rounds", 1001),
        ("rounds", 2.5),
        ("batch_size", 0),
        ("learning_rate", 0),
        ("learning_rate", -1),
        ("clip", 1e9),
        ("seed", 2**63),
        ("seed", -1),
        ("target_parameters", 10**9),
    ],
)
def test_a_setting_out_of_its_range_is_named_in_the_refusal(field, value):
    document = json.loads(RAW)
    document["settings"][field] = value
    raw = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ProposalRefused, match=f"malformed at settings.{field}"):
        RunProposal.from_bytes(raw)


@given(st.binary(max_size=400))
def test_random_bytes_are_refused_with_one_sentence(raw):
    with pytest.raises(ProposalRefused) as refusal:
        RunProposal.from_bytes(raw)
    assert "\n" not in str(refusal.value)


def test_a_proposal_longer_than_allowed_is_refused_unread():
    with pytest.raises(ProposalRefused, match=f"at most {MAX_PROPOSAL_BYTES} bytes"):
        RunProposal.from_bytes(b" " * (MAX_PROPOSAL_BYTES + 1))


# ---- signatures ----


def test_each_signature_is_accepted_for_what_it_says():
    verify_operator(RAW, sign_as_operator(RAW, KEY.private), KEY.public_bytes)
    verify_cosigner(RAW, sign_as_cosigner(RAW, KEY.private), KEY.public_bytes, "bank-1")
    verify_end("run-00000001", "finished", sign_end("run-00000001", "finished", KEY.private), KEY.public_bytes)


def test_no_signature_is_accepted_in_the_place_of_another():
    signatures = {
        "operator": sign_as_operator(RAW, KEY.private),
        "cosigner": sign_as_cosigner(RAW, KEY.private),
        "end": sign_end("run-00000001", "finished", KEY.private),
        "bare": KEY.private.sign(RAW),
        "other key": sign_as_operator(RAW, OTHER.private),
    }
    for name, signature in signatures.items():
        if name != "operator":
            with pytest.raises(ProposalRefused, match="the operator named in the agreement"):
                verify_operator(RAW, signature, KEY.public_bytes)
        if name != "cosigner":
            with pytest.raises(ProposalRefused, match="label holder bank-1"):
                verify_cosigner(RAW, signature, KEY.public_bytes, "bank-1")
        if name != "end":
            with pytest.raises(ProposalRefused, match="the operator"):
                verify_end("run-00000001", "finished", signature, KEY.public_bytes)


def test_an_end_cannot_be_cut_differently_into_run_and_reason():
    signature = sign_end("run-00000001", "finished", KEY.private)
    for run_id, reason in (
        ("run-00000001finished", ""),
        ("run-0000000", "1finished"),
        ('run-00000001", "', "finished"),
    ):
        with pytest.raises(ProposalRefused):
            verify_end(run_id, reason, signature, KEY.public_bytes)


@given(st.integers(0, 63), st.integers(1, 255))
def test_a_signature_with_any_byte_changed_is_refused(index, change):
    signature = bytearray(sign_as_operator(RAW, KEY.private))
    signature[index] ^= change
    with pytest.raises(ProposalRefused):
        verify_operator(RAW, bytes(signature), KEY.public_bytes)
