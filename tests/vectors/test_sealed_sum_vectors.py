"""The sealed sum against vectors that other libraries made (make_vectors.py says which), hostile ones included."""

import hashlib
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from protos.sealed_sum import canonical, layout, shamir, tags
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.ciphertext import pack, unpack
from protos.sealed_sum.dealing import dealer_order
from protos.sealed_sum.errors import BadSignature, BoundsViolated, MalformedCiphertext, ShareInvalid, WeakKey
from protos.sealed_sum.header import SumHeader
from protos.sealed_sum.keys import SigningKey, agree, public_key, seal, unseal, verify
from protos.sealed_sum.masking import expand, pairwise_seed
from protos.sealed_sum.parameters import CIPHERTEXT_BYTES, DATA_SLOTS, parameters_digest
from protos.sealed_sum.secret import AeadKey, AgreementSecret, MaskSeed, TagKey

HERE = Path(__file__).parent
GOOD = json.loads((HERE / "sealed_sum_good.json").read_text())
BAD = json.loads((HERE / "sealed_sum_bad.json").read_text())
unhex = bytes.fromhex


def why(vector):
    return vector.get("why", "good")


def test_canonical_encoding_matches():
    vector = GOOD["encode"]
    text, number, raw = vector["parts"]

    assert canonical.encode(vector["domain"], text, number, unhex(raw)).hex() == vector["bytes"]


def test_pinned_parameters_match():
    assert parameters_digest().hex() == GOOD["parameters_digest"]


def test_header_digest_matches():
    fields = GOOD["header"]["fields"]
    parts = [unhex(part) if index in {0, 5, 6, 7, 8} else part for index, part in enumerate(fields)]

    assert SumHeader(*parts).digest().hex() == GOOD["header"]["digest"]


def test_dealer_order_matches():
    vector = GOOD["dealer_order"]

    assert list(dealer_order(unhex(vector["epoch_id"]), sorted(vector["order"]))) == vector["order"]


@pytest.mark.parametrize("vector", GOOD["masks"])
def test_mask_expansion_matches(vector):
    mask = expand(MaskSeed(unhex(vector["seed"])), vector["count"])

    assert mask[:6].tolist() == vector["first"]
    assert hashlib.sha256(mask.astype("<u8").tobytes()).hexdigest() == vector["sha256"]


@pytest.mark.parametrize("vector", GOOD["pairwise_seeds"])
def test_pairwise_seeds_match_at_both_ends(vector):
    for member, peer in (("bank-a", "bank-b"), ("bank-b", "bank-a")):
        secret = AgreementSecret(unhex(vector[member]))
        seed = pairwise_seed(
            secret,
            unhex(vector[f"{peer} public"]),
            member=member,
            peer=peer,
            agreement_hash=unhex(vector["agreement_hash"]),
            epoch_id=unhex(vector["epoch_id"]),
            k=vector["k"],
            header_digest=unhex(vector["header_digest"]),
        )

        assert public_key(secret).hex() == vector[f"{member} public"]
        assert seed.raw.hex() == vector["seed"]


def test_pairwise_seeds_differ_between_sums_and_headers():
    assert len({vector["seed"] for vector in GOOD["pairwise_seeds"]}) == 3


@pytest.mark.parametrize("vector", GOOD["sealed_shares"])
def test_sealed_shares_match(vector):
    key, nonce, associated = AeadKey(unhex(vector["key"])), unhex(vector["nonce"]), unhex(vector["associated"])

    assert seal(key, nonce, unhex(vector["plaintext"]), associated).hex() == vector["sealed"]
    assert unseal(key, nonce, unhex(vector["sealed"]), associated, "bank-a").hex() == vector["plaintext"]


@pytest.mark.parametrize("vector", BAD["sealed_shares"], ids=why)
def test_bad_sealed_shares_are_refused(vector):
    with pytest.raises(ShareInvalid):
        unseal(
            AeadKey(unhex(vector["key"])),
            unhex(vector["nonce"]),
            unhex(vector["sealed"]),
            unhex(vector["associated"]),
            "bank-a",
        )


@pytest.mark.parametrize("vector", GOOD["signatures"])
def test_signatures_match(vector):
    key = SigningKey.from_bytes(unhex(vector["private"]))

    assert key.public_bytes.hex() == vector["public"]
    assert key.sign(vector["domain"], unhex(vector["body"])).hex() == vector["signature"]
    verify(key.public_bytes, "bank-a", vector["domain"], unhex(vector["body"]), unhex(vector["signature"]))


@pytest.mark.parametrize("vector", BAD["signatures"], ids=why)
def test_bad_signatures_are_refused(vector):
    with pytest.raises(BadSignature, match="bank-a"):
        verify(unhex(vector["public"]), "bank-a", vector["domain"], unhex(vector["body"]), unhex(vector["signature"]))


@pytest.mark.parametrize("point", BAD["small_order_public_keys"])
def test_a12_public_keys_of_small_order_are_refused(point):
    with pytest.raises(WeakKey):
        agree(AgreementSecret(bytes(range(32))), unhex(point), "bank-b")


@pytest.mark.parametrize("vector", GOOD["shamir"], ids=lambda v: f"T={v['threshold']}")
def test_shamir_shares_match(vector):
    randomness = iter(vector["randomness"])
    points = [int(x) for x in vector["shares"]]
    threshold = vector["threshold"]

    shares = shamir.split(unhex(vector["secret"]), threshold, points, lambda size: unhex(next(randomness))[:size])

    assert {str(x): share.hex() for x, share in shares.items()} == vector["shares"]
    numbers = {x: shamir.parse_share(share) for x, share in shares.items()}
    for start in range(len(points) - threshold + 1):
        subset = {x: numbers[x] for x in points[start : start + threshold]}
        assert shamir.combine(subset).hex() == vector["secret"]


@pytest.mark.parametrize("vector", BAD["shares"], ids=why)
def test_bad_shares_are_refused(vector):
    with pytest.raises(ShareInvalid):
        shamir.parse_share(unhex(vector["share"]))


def test_tags_match():
    vector = GOOD["tags"]
    key, epoch_id, h_k = TagKey(unhex(vector["tag_key"])), unhex(vector["epoch_id"]), unhex(vector["header_digest"])
    data = expand(MaskSeed(unhex(vector["data_seed"])), 2 * DATA_SLOTS).reshape(2, DATA_SLOTS)

    slots = tags.append(key, epoch_id, h_k, vector["member"], data)

    assert slots[:, DATA_SLOTS:].tolist() == vector["tags"]
    assert tags.fit(key, epoch_id, h_k, [vector["member"]], slots)


def test_layout_matches():
    vector = GOOD["layout"]
    fields = (
        layout.Field("small", 4, -100.0, 1_000_000 * 2.0**-10 - 100.0, 2.0**-10),
        layout.Field("large", 3, 0.0, 2.0**52 - 1, 1.0),
    )
    made = layout.Layout(fields)
    values = {name: np.array(vector[name]) for name in ("small", "large")}

    slots = layout.encode(made, values, vector["cohort"])

    assert layout.limb_base(vector["cohort"]) == vector["limb_base"]
    assert slots.tolist() == vector["slots"]
    assert layout.decode(made, slots, vector["cohort"], 1).integers["large"].tolist() == [0, 2**51, 2**52 - 1]


@pytest.mark.parametrize("vector", GOOD["packed_residues"])
def test_packed_residues_match(vector):
    residues = np.ones((1, 2, 2, 4096), dtype=np.uint64)
    residues[0, 0, 0, :2] = vector["pair"] if max(vector["pair"]) < 68719230977 else [1, 1]
    residues[0, 0, 1, :2] = vector["pair"]
    at = 4096 // 2 * 9
    packed = pack(residues)

    assert packed[at : at + 9].hex() == vector["bytes"]
    assert np.array_equal(unpack(packed, 1), residues)


@pytest.mark.parametrize("vector", BAD["packed_residues"], ids=why)
def test_a5_bad_residues_are_refused(vector):
    packed = bytearray(pack(np.ones((1, 2, 2, 4096), dtype=np.uint64)))
    packed[:9] = unhex(vector["bytes"])

    assert len(packed) == CIPHERTEXT_BYTES
    with pytest.raises(MalformedCiphertext, match="below its prime"):
        unpack(bytes(packed), 1)


@pytest.mark.parametrize("numbers", BAD["bounds"], ids=str)
def test_section_0_bad_bounds_are_refused(numbers):
    with pytest.raises(BoundsViolated):
        Bounds(*numbers)


def test_committed_vectors_are_what_the_generator_makes():
    made = runpy.run_path(str(HERE / "make_vectors.py"))

    assert json.loads(json.dumps(made["good"]())) == GOOD
    assert json.loads(json.dumps(made["bad"]())) == BAD
