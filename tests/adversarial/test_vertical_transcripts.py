"""What travels in a vertical run, held against the table of steps; and a relay that does not behave."""

import itertools

import numpy as np
import pytest

from coordinator.sum_round import RunFailed
from models.newton import sigmoid
from nodes import vertical_feature, vertical_label
from nodes.vertical_data import OwnRows
from nodes.vertical_session import packed_holdout
from policies.protocol_steps import STEPS
from protos.encrypted_gradient.encrypted_gradient_pb2 import FoldedSums
from protos.encrypted_gradient.parameters import GRADIENT_SCALE, PLAIN_MODULUS
from protos.runs.v1 import vertical_pb2
from protos.sealed_sum.errors import BadSignature
from protos.sealed_sum.keys import verify
from protos.sealed_sum.sealed_sum_pb2 import Signed
from simulations.datasets.data_set import number
from simulations.in_process_vertical import InProcessVertical, VerticalWorld

NAMES = {"bank": ("fa", "fb"), "payment": ("fc", "fd"), "logistics": ("fe", "ff")}
FEATURES = tuple(
    number(name, "unit", 0, 100).model_copy(update={"role": role}) for role, names in NAMES.items() for name in names
)
KINDS = {row.message for row in STEPS if row.protocol == "vertical training"}


def world_of(count, members_per_role, seed=1):
    generator = np.random.default_rng(seed)
    columns = {name: generator.uniform(0, 100, count) for names in NAMES.values() for name in names}
    z = -2 + 0.02 * columns["fa"] + 0.03 * columns["fc"] - 0.02 * columns["fe"]
    label = (generator.random(count) < sigmoid(z)).astype(float)
    roles, rows = {}, {}
    for role, names in NAMES.items():
        owner = generator.integers(members_per_role, size=count)
        for place in range(members_per_role):
            at = np.flatnonzero(owner == place)
            member = f"{role}-{'abc'[place]}"
            roles[member] = role
            rows[member] = OwnRows(
                tuple(f"seller-{row:06d}" for row in at),
                {name: columns[name][at] for name in names},
                {"credit": label[at]} if role == "bank" else {},
            )
    return VerticalWorld(roles, rows, FEATURES, {"credit": "bank"})


class Relay:
    """The coordinator's place: sees every letter, and may change what it hands over."""

    def __init__(self, change=None):
        self.letters, self.bodies, self.change, self.kept = [], [], change, {}

    def wrap(self, member, handle):
        def wrapped(action, body):
            if action == "vertical":
                body = self.handed_over(member, body)
            reply = handle(action, body)
            self.bodies += [body, reply]
            if action == "vertical":
                for post in vertical_pb2.VerticalStepReply.FromString(reply).posts:
                    self.letters += [(member, recipient, post.body) for recipient in post.recipients]
            return reply

        return wrapped

    def handed_over(self, member, body):
        if self.change is None:
            return body
        request = vertical_pb2.VerticalStepRequest.FromString(body)
        key = (member, request.attempt, request.number)
        if key not in self.kept:  # a resend carries the same lie
            self.change(self, member, request)
            self.kept[key] = request.SerializeToString(deterministic=True)
        return self.kept[key]


def kind_of(consortium, sender, letter):
    """The signature's domain: the one under which the sender's signature verifies."""
    signed = Signed.FromString(letter)
    key = consortium.identities[sender].public_bytes
    for kind in sorted(KINDS):
        try:
            verify(key, sender, kind, signed.body, signed.signature)
        except BadSignature:
            continue
        return kind
    return None


@pytest.fixture(scope="module")
def transcript(tmp_path_factory):
    relay, world = Relay(), world_of(3000, 3)
    with InProcessVertical(world, tmp_path_factory.mktemp("run"), wrap=relay.wrap) as consortium:
        consortium.train(passes=2)
        kinds = [(s, r, kind_of(consortium, s, letter), letter) for s, r, letter in relay.letters]
    return world, relay, kinds


def part(world, sender, receiver):
    """Who sends to whom, in the words of the table."""
    if world.roles[sender] == world.roles[receiver]:
        return "own role"
    return (
        "label to feature"
        if world.roles[sender] == "bank"
        else "to label"
        if world.roles[receiver] == "bank"
        else "between"
    )


ALLOWED = {
    "vertical-hello": {"own role", "label to feature", "to label", "between"},
    "vertical-rows": {"own role", "label to feature"},
    "vertical-columns": {"own role", "to label", "between"},
    "role-sum": {"own role"},
    "vertical-opening": {"label to feature"},
    "masked-scores": {"to label"},
    "encrypted-residuals": {"label to feature"},
    "vertical-products": {"to label"},
    "folded-sums": {"label to feature"},
    "holdout-scores": {"to label"},
    "vertical-recalibration": {"label to feature"},
    "vertical-tower-report": {"own role", "label to feature", "to label", "between"},
}


def test_every_letter_of_a_run_has_its_row_in_the_table_and_goes_where_the_row_says(transcript):
    world, _, kinds = transcript

    assert {kind for _, _, kind, _ in kinds} == set(ALLOWED)
    assert set(ALLOWED) <= KINDS
    for sender, receiver, kind, _ in kinds:
        assert part(world, sender, receiver) in ALLOWED[kind], (sender, receiver, kind)


def test_no_entity_value_or_label_crosses_the_relay_in_the_clear(transcript):
    world, relay, _ = transcript
    everything = b"".join(relay.bodies)
    for rows in world.rows.values():
        assert not any(entity.encode() in everything for entity in rows.entity_ids[:50])
        for values in (*rows.columns.values(), *rows.labels.values()):
            for kind in ("<f8", "<f4"):
                assert values[:4].astype(kind).tobytes() not in everything


def test_b5_a_label_holder_gets_one_sum_a_row_and_pass_and_no_term_of_it(transcript):
    world, _, kinds = transcript
    label_holders = [member for member, role in world.roles.items() if role == "bank"]
    for holder in label_holders:
        seen = [letter for _, r, kind, letter in kinds if r == holder and kind in {"masked-scores", "holdout-scores"}]
        assert len(seen) == (2 + 1) * 6  # two passes and the hold-out, six feature holders
        for letter in seen:
            body = Signed.FromString(letter).body
            words = np.frombuffer(body[-8 * 64 :], dtype="<u8")
            assert 0.3 < (words >> np.uint64(63)).mean() < 0.7
            assert len(np.unique(words)) == 64


def test_b1_a_feature_holder_gets_one_number_a_column_and_pass_from_each_label_holder(transcript):
    world, _, kinds = transcript
    for holder in (member for member, role in world.roles.items() if role != "bank"):
        sums = [
            FoldedSums.FromString(Signed.FromString(letter).body)
            for _, receiver, kind, letter in kinds
            if receiver == holder and kind == "folded-sums"
        ]
        columns = {len(message.column_sums) for message in sums}
        assert len(sums) == 2 * 3
        assert len(columns) == 1


def test_b6_a_feature_holder_reads_no_answer_of_one_label_holder(tmp_path, monkeypatch):
    """What it has after taking off its own masks is uniform below t, but for the sum over all label holders."""
    seen = []
    honest = vertical_feature.unmask

    def noted(sums, masks):
        total = honest(sums, masks)
        seen.append(([honest([one], [mask]) for one, mask in zip(sums, masks, strict=True)], total))
        return total

    monkeypatch.setattr(vertical_feature, "unmask", noted)
    with InProcessVertical(world_of(2400, 3), tmp_path) as consortium:
        consortium.train(passes=2)

    reach = PLAIN_MODULUS / 2 / GRADIENT_SCALE
    for alone, total in seen:
        assert np.abs(total).max() < 0.01 * reach
        for one in alone:
            assert np.abs(one).mean() > 0.25 * reach


def run_with(tmp_path, change, passes=2):
    relay = Relay(change)
    with InProcessVertical(world_of(1500, 1), tmp_path, wrap=relay.wrap) as consortium:
        relay.consortium = consortium
        consortium.train(passes=passes)


def each_letter(change):
    """Apply `change(receiver, letter, kind)` to every letter before it is handed over."""

    def changed(relay, member, request):
        for letter in request.letters:
            change(member, letter, kind_of(relay.consortium, letter.sender, letter.body))

    return changed


def test_a_letter_that_the_relay_changed_ends_the_run_with_its_members_name(tmp_path):
    def flip(_relay, member, request):
        if member == "payment-a" and request.number == 3:
            body = bytearray(request.letters[0].body)
            body[40] ^= 1
            request.letters[0].body = bytes(body)

    with pytest.raises(RunFailed, match="payment-a refused"):
        run_with(tmp_path, flip)


def test_a_letter_of_an_earlier_pass_is_refused(tmp_path):
    first = {}

    def replay(member, letter, kind):
        if (member, kind) == ("payment-a", "encrypted-residuals"):
            letter.body = first.setdefault(member, letter.body)

    with pytest.raises(RunFailed, match="WrongPass"):
        run_with(tmp_path, each_letter(replay))


def test_letters_for_two_receivers_cannot_be_exchanged(tmp_path):
    folded = {}

    def swap(member, letter, kind):
        if kind == "folded-sums":
            folded.setdefault("first", letter.body)
            letter.body = folded["first"]

    with pytest.raises(RunFailed, match=r"WrongPass|MalformedGradient"):
        run_with(tmp_path, each_letter(swap))


def test_a10_an_old_hello_cannot_open_a_new_attempt(tmp_path):
    hellos = {}

    def old(_relay, member, request):
        if request.number != 1:
            return
        for letter in request.letters:
            letter.body = hellos.setdefault((member, letter.sender), letter.body)

    relay = Relay(old)
    with InProcessVertical(world_of(1500, 1), tmp_path, wrap=relay.wrap) as consortium:
        handle = consortium.nodes["bank-a"].handle
        seen = itertools.count()

        def dying(action, body):
            if action == "vertical" and next(seen) == 4:
                consortium.start("bank-a")
                return consortium.nodes["bank-a"].handle(action, body)
            return handle(action, body)

        consortium.nodes["bank-a"].handle = dying
        with pytest.raises(RunFailed, match="same run and attempt"):
            consortium.train(passes=2)


def test_a_step_is_answered_once_and_the_same_request_gets_the_same_bytes(tmp_path):
    asked = {}

    def note(_relay, member, request):
        asked.setdefault(member, []).append(request.SerializeToString(deterministic=True))

    relay = Relay(note)
    with InProcessVertical(world_of(1500, 1), tmp_path, wrap=relay.wrap) as consortium:
        step, replies = consortium.nodes["payment-a"].handle, []

        def again(action, body):
            reply = step(action, body)
            if action == "vertical":
                replies.append((reply, step(action, body)))
                changed = vertical_pb2.VerticalStepRequest.FromString(body)
                if changed.letters:
                    changed.letters[0].body += b"x"
                    with pytest.raises(Exception, match=r"an answer is given once|must be started again"):
                        step(action, changed.SerializeToString())
            return reply

        consortium.nodes["payment-a"].handle = again
        consortium.train(passes=2)

    assert len(replies) > 5
    assert all(first == second for first, second in replies)


def test_a_label_holder_cannot_choose_its_own_hold_out(tmp_path, monkeypatch):
    monkeypatch.setattr(vertical_label, "packed_holdout", lambda held: packed_holdout(~held))

    with (
        InProcessVertical(world_of(1500, 1), tmp_path) as consortium,
        pytest.raises(RunFailed, match="to hold out the rows that the agreement's key picks"),
    ):
        consortium.train(passes=2)
