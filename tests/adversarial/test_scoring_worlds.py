"""Two worlds with one total: what the platform and a colluding member see has the same distribution in both.

Adversary: the gateway with one member. Its view is everything that arrives at the gateway, with every mask taken off
that the two can take off: the self masks that the opening rebuilds, and the pairwise masks of the colluding member.
The worlds differ in who knows the seller, or in how the total is split. What is not masked must be equal bit for bit;
what is masked must pass a test of homogeneity (chi-squared over bytes) that an honest build fails once in a million.
"""

import asyncio

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from nodes.scoring_tables import EntityTable
from protos.masked_sum import masked_sum_pb2 as masked
from protos.masked_sum.aggregator import Revealing
from protos.masked_sum.masking import RequestKeys, expand, self_mask
from simulations.scoring_consortium import LAYOUT, found
from simulations.scoring_in_process import LocalScoring

NUM_ENTITIES = 150
FALSE_ALARM = 1e-6
COLLUDER = "payment-2"


def part(score, vote):
    """One member's slots: a score, that it knows the entity, and one vote."""
    slots = np.zeros(LAYOUT.width, dtype=np.int64)
    slots[0], slots[1], slots[2 + vote] = score, 1, 1
    return slots


WORLDS = {
    "bank-1 and payment-1 know the seller": {"bank-1": part(70, 0), "payment-1": part(30, 5)},
    "bank-2 and logistics-2 do": {"bank-2": part(70, 0), "logistics-2": part(30, 5)},
    "the total is split another way": {"bank-1": part(-900, 5), "payment-1": part(1000, 0)},
}


class View:
    """What the platform and its colluder get of all requests of one world."""

    def __init__(self):
        self.shapes, self.plain, self.alone, self.residuals = [], [], [], []

    def take(self, revealing, total, colluder):
        """Take off every mask that the adversary can: `revealing` as the gateway has it after the opening."""
        digest = revealing.collected.request.digest
        keys = RequestKeys(colluder.pairs, digest)
        for member in revealing.survivors:
            upload = revealing.collected.received[member].vector
            residual = upload - expand(self_mask(revealing._rebuild(member)), upload.size)
            if member == COLLUDER:
                continue
            self.alone.append(residual)
            mask = expand(keys[member][0], upload.size)
            residual = residual - mask if member < COLLUDER else residual + mask
            self.residuals.append(residual)
        self.plain.append(total.view(np.int64).tolist())


def seen_in(folder, world, monkeypatch):
    """Ask about every entity of a world, and note everything that reaches the gateway."""
    scoring, view = LocalScoring(found(folder, 6, NUM_ENTITIES)), View()
    tokens = scoring.consortium.tokens
    for member in scoring.consortium.members:
        row = WORLDS[world].get(member)
        known = tokens if row is not None else ()
        rows = np.tile(row, (len(known), 1)) if known else np.zeros((0, LAYOUT.width), dtype=np.int64)
        scoring.consortium.tables[member] = EntityTable.of(LAYOUT, list(known), rows)
    real = Revealing.open_total

    def open_total(self):
        total = real(self)
        epochs = scoring.nodes[COLLUDER].responder._epochs
        view.take(self, total, epochs[self.collected.request.epoch_id].party)
        return total

    async def script():
        await scoring.start()
        try:
            for token in tokens:
                (answer,) = await scoring.ask(token)
                view.plain.append((answer.outcome, answer.total.tolist(), answer.opened.survivors))
        finally:
            for member, node in scoring.nodes.items():
                view.shapes.append((member, [shape_of(message) for message in node.sent]))
            await scoring.stop()

    with monkeypatch.context() as patch:
        patch.setattr(Revealing, "open_total", open_total)
        asyncio.run(script())
    return view


def shape_of(message):
    """A message without what is random: its kind, the length of every field, whom it names."""
    kind = message.WhichOneof("what")
    if kind == "upload":
        body = masked.Upload.FromString(message.upload)
        return kind, len(body.vector), len(body.seed_commitment), len(body.shares)
    if kind == "shares":
        body = masked.ShareReply.FromString(message.shares)
        return kind, tuple(body.survivors), len(body.shares)
    return kind, message.ByteSize()


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return {world: seen_in(tmp_path_factory.mktemp("world") / "consortium", world, monkeypatch) for world in WORLDS}


ONE, *OTHERS = WORLDS


@pytest.mark.parametrize("world", OTHERS)
def test_c5_messages_have_the_same_order_and_sizes_in_both_worlds(views, world):
    assert views[world].shapes == views[ONE].shapes


@pytest.mark.parametrize("world", OTHERS)
def test_c5_everything_unmasked_is_the_same_in_both_worlds(views, world):
    assert views[world].plain == views[ONE].plain


WHO = pytest.mark.parametrize("who", ["alone", "residuals"], ids=["the platform alone", "with a colluding member"])


@WHO
@pytest.mark.parametrize("world", OTHERS)
def test_c5_what_is_left_of_an_upload_has_the_same_distribution_in_both_worlds(views, world, who):
    """By honest member, since the worlds differ in who of them has something to hide."""
    for place in range(5):
        counts = [
            np.bincount(np.concatenate(getattr(view, who)[place::5]).view(np.uint8), minlength=256)
            for view in (views[ONE], views[world])
        ]
        assert all(np.array(counts).min(axis=1) > 0)
        assert chi2_contingency(counts).pvalue > FALSE_ALARM


@WHO
def test_c5_what_is_left_of_an_upload_is_uniform(views, who):
    words = np.concatenate([residual for view in views.values() for residual in getattr(view, who)])
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = len(words) * 8 / 256

    assert ((counts - expected) ** 2 / expected).sum() < 255 + 6 * np.sqrt(2 * 255)


def test_c5_residuals_of_the_honest_members_sum_to_the_honest_total(views):
    """The view is that of the masked sum and no other: without any two honest members' masks it must add up."""
    view = views[ONE]
    for start in range(0, len(view.residuals), 5):
        total = np.sum(view.residuals[start : start + 5], axis=0, dtype=np.uint64).view(np.int64)
        assert total.tolist() == (part(70, 0) + part(30, 5)).tolist()
