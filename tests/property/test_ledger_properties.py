"""Whatever is appended, and however: every proof verifies, and nothing else does."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protos.ledger.errors import LedgerError, ProofInvalid
from protos.ledger.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    subtree_of,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from protos.ledger.notes import NoteKey, parse_note

entries = st.lists(st.binary(max_size=40), min_size=1, max_size=70)


def grown(contents):
    """Leaf hashes, the subtrees as a log would hand them out, and the frontier after each append."""
    leaves = [leaf_hash(content) for content in contents]
    frontiers = [Frontier()]
    for leaf in leaves:
        frontiers.append(frontiers[-1].append(leaf)[0])
    return leaves, lambda level, at: subtree_of(leaves[at << level : (at + 1) << level]), frontiers


@given(entries, st.data())
def test_any_entry_is_under_any_later_root(contents, data):
    leaves, subtree, frontiers = grown(contents)
    size = data.draw(st.integers(1, len(leaves)))
    index = data.draw(st.integers(0, size - 1))

    verify_inclusion(leaves[index], index, size, inclusion_proof(index, size, subtree), frontiers[size].root())


@given(entries, st.data())
def test_any_later_tree_continues_any_earlier_one(contents, data):
    leaves, subtree, frontiers = grown(contents)
    size = data.draw(st.integers(0, len(leaves)))
    old = data.draw(st.integers(0, size))

    proof = consistency_proof(old, size, subtree)

    verify_consistency(old, frontiers[old].root(), size, frontiers[size].root(), proof)


@given(entries)
def test_a_frontier_has_the_root_of_the_whole_tree_and_survives_being_stored(contents):
    _, subtree, frontiers = grown(contents)
    for size, frontier in enumerate(frontiers):
        assert frontier.root() == tree_root(size, subtree)
        assert Frontier.from_bytes(size, frontier.to_bytes()) == frontier


@given(entries)
def test_every_perfect_subtree_is_reported_once_by_the_append_that_completes_it(contents):
    leaves, subtree, _ = grown(contents)
    frontier, reported = Frontier(), {}
    for leaf in leaves:
        frontier, completed = frontier.append(leaf)
        for one in completed:
            assert (one.level, one.position) not in reported
            reported[one.level, one.position] = one.hash

    expected = {(level, at) for level in range(1, 8) for at in range(len(leaves) >> level)}
    assert set(reported) == expected
    assert all(subtree(level, at) == found for (level, at), found in reported.items())


def altered(data, root, proof, *numbers):
    """One bit of a hash flipped, a hash added, taken out or moved, or a number changed."""
    hashes = [root, *proof]
    how = data.draw(st.sampled_from(["flip", "add", "drop", "swap", "number"]))
    if how == "flip":
        at = data.draw(st.integers(0, len(hashes) - 1))
        bit = data.draw(st.integers(0, 255))
        one = bytearray(hashes[at])
        one[bit // 8] ^= 1 << bit % 8
        hashes[at] = bytes(one)
    elif how == "add":
        hashes.insert(data.draw(st.integers(1, len(hashes))), data.draw(st.binary(min_size=32, max_size=32)))
    elif how == "drop":
        assume(len(hashes) > 1)
        del hashes[data.draw(st.integers(1, len(hashes) - 1))]
    elif how == "swap":
        assume(len(set(hashes[1:])) > 1)
        hashes[1:] = hashes[:0:-1]
        assume(hashes[1:] != list(proof))
    else:
        at = data.draw(st.integers(0, len(numbers) - 1))
        numbers = list(numbers)
        numbers[at] += data.draw(st.sampled_from([-2, -1, 1, 2]))
    return hashes[0], hashes[1:], *numbers


@given(entries, st.data())
def test_an_altered_inclusion_proof_is_refused(contents, data):
    distinct = [bytes([number]) + content for number, content in enumerate(contents)]
    leaves, subtree, frontiers = grown(distinct)
    size, index = len(leaves), data.draw(st.integers(0, len(leaves) - 1))
    proof = inclusion_proof(index, size, subtree)

    root, path, number, whole = altered(data, frontiers[size].root(), proof, index, size)
    # A path of one shape serves some other sizes too (that is RFC 6962); the signed size is what tells them apart.
    assume(whole == size)

    with pytest.raises(ProofInvalid):
        verify_inclusion(leaves[index], number, whole, path, root)


@given(entries, st.data())
def test_an_altered_consistency_proof_is_refused(contents, data):
    assume(len(contents) > 1)
    distinct = [bytes([number]) + content for number, content in enumerate(contents)]
    leaves, subtree, frontiers = grown(distinct)
    size, old = len(leaves), data.draw(st.integers(1, len(leaves) - 1))
    proof = consistency_proof(old, size, subtree)

    root, path, whole = altered(data, frontiers[size].root(), proof, size)
    assume(whole == size)

    with pytest.raises(ProofInvalid):
        verify_consistency(old, frontiers[old].root(), whole, root, path)


@given(entries, st.data())
def test_a_rewritten_past_has_no_consistency_proof(contents, data):
    assume(len(contents) > 1)
    _, _, before = grown(contents)
    old = data.draw(st.integers(1, len(contents) - 1))
    at = data.draw(st.integers(0, old - 1))
    rewritten = [*contents[:at], contents[at] + b"!", *contents[at + 1 :]]
    _, subtree, after = grown(rewritten)
    size = len(contents)

    for proof in (consistency_proof(old, size, subtree), ()):
        with pytest.raises(ProofInvalid):
            verify_consistency(old, before[old].root(), size, after[size].root(), proof)


def test_an_inner_node_cannot_pose_as_an_entry():
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    root = node_hash(left, right)

    assert leaf_hash(left + right) != root
    with pytest.raises(ProofInvalid):
        verify_inclusion(leaf_hash(left + right), 0, 1, (), root)


@pytest.mark.parametrize(("old", "size"), [(-1, 4), (5, 4), (1, (1 << 62) + 1), (3, 4), (2, 4), (1, 4)])
def test_a_consistency_proof_of_nonsense_is_refused_and_never_hangs(old, size):
    for path in ((), (EMPTY_ROOT,), (EMPTY_ROOT,) * 200, (b"short",)):
        with pytest.raises(ProofInvalid):
            verify_consistency(old, EMPTY_ROOT, size, leaf_hash(b""), path)


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, (1 << 62) + 1), (0, 4), (0, 0)])
def test_an_inclusion_proof_of_nonsense_is_refused_and_never_hangs(index, size):
    for path in ((), (EMPTY_ROOT,), (EMPTY_ROOT,) * 200, (b"short",)):
        with pytest.raises(ProofInvalid):
            verify_inclusion(EMPTY_ROOT, index, size, path, EMPTY_ROOT)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_note_or_refused_in_one_sentence(raw):
    refused = None
    try:
        note = parse_note(raw)
    except LedgerError as problem:
        refused = str(problem)

    assert note.encode().encode() == raw if refused is None else refused.isprintable()


@given(st.text(max_size=120))
def test_any_text_is_a_key_or_refused_in_one_sentence(text):
    with pytest.raises(LedgerError) as refused:
        NoteKey.parse(text)
    assert str(refused.value).isprintable()
