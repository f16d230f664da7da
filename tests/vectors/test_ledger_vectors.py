"""The ledger's rules against published values and other implementations, never against themselves.

* The eight leaves and their roots are Certificate Transparency's own test data (RFC 6962).
* `scitt-cose` is another implementation of RFC 6962 trees and proofs.
* The signed note is the example of Go's `golang.org/x/mod/sumdb/note`; the second key is sum.golang.org's.
* Cosignatures are put together by hand as https://c2sp.org/tlog-cosignature says, and signed with pycryptodome.
"""

import base64
import hashlib
import struct

import pytest
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa
from scitt_cose import merkle as other

from protos.ledger.checkpoints import Checkpoint, log_key, open_checkpoint, verify_cosignature, witness_key
from protos.ledger.errors import NoteMalformed, SignatureInvalid
from protos.ledger.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    subtree_of,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from protos.ledger.notes import NoteKey, parse_note

LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
NOTE_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ORIGIN = "example.com/behind-the-sofa"


def hashes_of(entries):
    leaves = [leaf_hash(entry) for entry in entries]
    return leaves, lambda level, position: subtree_of(leaves[position << level : (position + 1) << level])


def test_roots_of_certificate_transparencys_eight_leaves():
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT == bytes.fromhex(ROOTS[0])
    for leaf, root in zip(LEAVES, ROOTS[1:], strict=True):
        frontier, _ = frontier.append(leaf_hash(bytes.fromhex(leaf)))
        assert frontier.root().hex() == root


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [  # from RFC 6962 section 2.1.3's figure: seven leaves, in terms of their own hashes
        (0, 7, [(1, 2), (2, 4), (4, 7)]),
        (3, 7, [(2, 3), (0, 2), (4, 7)]),
        (4, 7, [(5, 6), (6, 7), (0, 4)]),
        (6, 7, [(4, 6), (0, 4)]),
    ],
)
def test_inclusion_paths_of_the_rfcs_own_tree(index, size, path):
    entries = [bytes.fromhex(leaf) for leaf in LEAVES]
    _, subtree = hashes_of(entries)

    expected = [other.merkle_root([entry.hex() for entry in entries[begin:end]]) for begin, end in path]

    assert [one.hex() for one in inclusion_proof(index, size, subtree)] == expected


@pytest.mark.parametrize(
    ("old", "path"),
    [  # RFC 6962 section 2.1.3: PROOF(3, D[7]) = [c, d, g, l], PROOF(4, D[7]) = [l], PROOF(6, D[7]) = [i, j, k]
        (3, [(2, 3), (3, 4), (0, 2), (4, 7)]),
        (4, [(4, 7)]),
        (6, [(4, 6), (6, 7), (0, 4)]),
    ],
)
def test_consistency_paths_of_the_rfcs_own_tree(old, path):
    entries = [bytes.fromhex(leaf) for leaf in LEAVES]
    _, subtree = hashes_of(entries)

    expected = [other.merkle_root([entry.hex() for entry in entries[begin:end]]) for begin, end in path]

    assert [one.hex() for one in consistency_proof(old, 7, subtree)] == expected


def test_every_proof_of_every_small_tree_is_that_of_another_implementation():
    entries = [hashlib.sha256(bytes([number])).digest()[: number % 20] for number in range(40)]
    leaves, subtree = hashes_of(entries)
    texts = [entry.hex() for entry in entries]
    for size in range(1, 41):
        root = tree_root(size, subtree)
        assert root.hex() == other.merkle_root(texts[:size])
        for index in range(size):
            proof = inclusion_proof(index, size, subtree)
            assert [one.hex() for one in proof] == other.inclusion_proof(texts[:size], index)
            assert other.verify_inclusion(texts[index], index, size, [one.hex() for one in proof], root.hex())
            verify_inclusion(leaves[index], index, size, proof, root)
        for old in range(1, size):
            proof = consistency_proof(old, size, subtree)
            assert [one.hex() for one in proof] == other.consistency_proof(texts, old, size)
            verify_consistency(old, tree_root(old, subtree), size, root, proof)


def test_a_note_that_go_signed_verifies_and_is_written_as_go_writes_it():
    key, note = NoteKey.parse(NOTE_KEY), parse_note(NOTE.encode())

    key.verify(note.text.encode(), note.by(key).signature)
    assert note.encode() == NOTE
    assert key.encode() == NOTE_KEY


def test_the_key_of_a_public_log_has_the_id_that_its_owner_states():
    text = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"

    assert NoteKey.parse(text).encode() == text


def test_a_checkpoint_of_the_specification_is_read_as_it_is_written():
    text = f"{ORIGIN}\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"

    assert Checkpoint.parse(text).text() == text
    assert Checkpoint.parse(text).size == 20852163


def signature_line(name, kind, public, payload):
    key_id = hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]
    return f"— {name} {base64.b64encode(key_id + payload).decode()}\n"


@pytest.fixture
def by_hand():
    """A co-signed checkpoint put together from the specification alone; (note, log's key, witness's key)."""
    log = ECC.construct(curve="Ed25519", seed=bytes(range(32)))
    witness = ECC.construct(curve="Ed25519", seed=bytes(range(1, 33)))
    log_public, witness_public = (key.public_key().export_key(format="raw") for key in (log, witness))
    text = f"{ORIGIN}\n3\n{base64.b64encode(bytes.fromhex(ROOTS[3])).decode()}\n"
    signed = eddsa.new(log, "rfc8032").sign(text.encode())
    stamp = 1679315147
    cosigned = eddsa.new(witness, "rfc8032").sign(f"cosignature/v1\ntime {stamp}\n{text}".encode())
    note = (
        text
        + "\n"
        + signature_line(ORIGIN, 0x01, log_public, signed)
        + signature_line(f"{ORIGIN}/bank-a", 0x04, witness_public, struct.pack(">Q", stamp) + cosigned)
    )
    return note, log_key(ORIGIN, log_public), witness_key(ORIGIN, "bank-a", witness_public)


def opened(raw, log, witness):
    note = parse_note(raw)
    return open_checkpoint(note, log), verify_cosignature(note.text, note.by(witness), witness)


def test_a_cosigned_checkpoint_made_by_hand_verifies(by_hand):
    text, log, witness = by_hand

    checkpoint, signed_at = opened(text.encode(), log, witness)

    assert (checkpoint.size, checkpoint.root.hex(), signed_at) == (3, ROOTS[3], 1679315147)


def test_a_bad_checkpoint_is_refused_whatever_byte_of_it_was_changed(by_hand):
    text, log, witness = by_hand
    raw = text.encode()
    for at in range(len(raw)):
        for flipped in (0x01, 0x20, 0x80):
            altered = raw[:at] + bytes([raw[at] ^ flipped]) + raw[at + 1 :]
            with pytest.raises((NoteMalformed, SignatureInvalid)):
                opened(altered, log, witness)
