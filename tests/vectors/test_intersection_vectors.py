"""The private set intersection against vectors of other code (make_intersection_vectors.py says which)."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from protos.private_set_intersection.channel import RAISED, Channel, Pair, session_id
from protos.private_set_intersection.curve import BlindingScalar, digests, raise_elements
from protos.private_set_intersection.identifiers import (
    MembersKey,
    OrderSeed,
    keyed_entities,
    members_key,
    normalise,
    shuffled_order,
)
from protos.sealed_sum.keys import SigningKey, unseal
from protos.sealed_sum.secret import SharedSecret, TagKey

HERE = Path(__file__).parent
GOOD = json.loads((HERE / "intersection_good.json").read_text())
KNOWN = [row for row in GOOD["identifiers"] if row["normal"] is not None]
unhex = bytes.fromhex


def array(text):
    return np.frombuffer(unhex(text), dtype=np.uint8).reshape(1, 32)


def test_the_committed_vectors_are_what_their_generator_makes():
    assert runpy.run_path(str(HERE / "make_intersection_vectors.py"))["vectors"]() == GOOD


def test_members_key_matches():
    key = members_key(TagKey(unhex(GOOD["tag_key"])), unhex(GOOD["agreement_hash"]), unhex(GOOD["epoch_id"]))

    assert key.raw.hex() == GOOD["members_key"]


def test_session_id_matches():
    assert session_id(unhex(GOOD["epoch_id"]), Pair("bank-a", "payment-b")).hex() == GOOD["session"]


@pytest.mark.parametrize("vector", GOOD["identifiers"], ids=lambda vector: vector["identifier"].strip())
def test_normal_form_matches(vector):
    assert normalise(vector["type"], vector["identifier"]) == vector["normal"]


@pytest.mark.parametrize("vector", KNOWN, ids=lambda vector: f"{vector['on']} {vector['normal']}")
def test_elements_blinding_and_digests_match_on_curve_and_twist(vector):
    scalars = {side: BlindingScalar(unhex(GOOD[f"{side}_scalar"])) for side in ("label_holder", "feature_holder")}
    element = keyed_entities([vector["identifier"]], vector["type"], MembersKey(unhex(GOOD["members_key"]))).elements

    assert element.tobytes().hex() == vector["element"]
    for side, scalar in scalars.items():
        assert raise_elements(scalar, element).tobytes().hex() == vector[f"blinded_by_{side}"]
    for side, other in (("label_holder", "feature_holder"), ("feature_holder", "label_holder")):
        twice = raise_elements(scalars[side], array(vector[f"blinded_by_{other}"]))
        assert digests(unhex(GOOD["session"]), twice).hex() == vector["digest"]


@pytest.mark.parametrize("vector", GOOD["rfc7748"])
def test_exchange_matches_rfc_7748(vector):
    u = array(vector["u"]).copy()
    u[:, 31] &= 0x7F

    assert raise_elements(BlindingScalar(unhex(vector["scalar"])), u).tobytes().hex() == vector["out"]


def test_order_matches():
    assert shuffled_order(OrderSeed(unhex(GOOD["order"]["seed"])), 12).tolist() == GOOD["order"]["places"]


def test_key_and_associated_data_of_a_chunk_match():
    vector = GOOD["chunk"]
    channel = Channel(
        Pair("bank-a", "payment-b"), unhex(GOOD["session"]), "bank-a", "payment-b", unhex(GOOD["agreement_hash"]),
        SigningKey.from_bytes(bytes(32)), bytes(32), SharedSecret(unhex(vector["shared"])),
    )  # fmt: skip
    key, associated = channel._key("bank-a", "payment-b", RAISED, vector["number"])

    assert unseal(key, unhex(vector["nonce"]), unhex(vector["sealed"]), associated, "bank-a").hex() == vector["body"]
