"""What leaks by design: one table, each line with an id, who learns what, against which adversary, and when.

The table is the only place these sentences live: the model card prints the lines that apply to its run, and
docs/leakage.md is generated from it and from the steps of `policies.protocol_steps` (a test compares them). Rules are
those of the protocol notes: A = sealed sum, B = vertical training, C = federated scoring, D = evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from policies.protocol_steps import step_tables

Story = Literal["horizontal", "vertical", "scoring"]


@dataclass(frozen=True)
class RunFacts:
    """The facts of a run (or of a scoring service) that decide what it leaks.

    Attributes:
        story: Which protocol ran.
        cohort: n, members of the key epoch.
        max_colluders: c of the agreement.
        min_survivors: u of the agreement.
        dropped: Some member dropped out of at least one opened sum.
        roster_changed: Two opened sums of one input class had different survivors.
        allow_roster_change: The agreement's flag of that name.
        release_policy: "members" or "platform".
        evaluated: Score histograms were opened and a released table was signed.
        binned: Feature histograms were opened.
        shapes_released: The signed table holds feature shapes.
        role_sizes: Role to number of members in the cohort.
        bilateral: One other party besides the label holder, with the agreement's flag.
        sealed: False in the class that exists for the benchmark only.
    """

    story: Story
    cohort: int
    max_colluders: int
    min_survivors: int
    dropped: bool = False
    roster_changed: bool = False
    allow_roster_change: bool = False
    release_policy: Literal["members", "platform"] = "members"
    evaluated: bool = True
    binned: bool = True
    shapes_released: bool = True
    role_sizes: Mapping[str, int] = field(default_factory=dict)
    bilateral: bool = False
    sealed: bool = True

    @property
    def honest_contributors(self) -> int:
        """The fewest members outside a colluding set that any opened sum is over: u - c."""
        return self.min_survivors - self.max_colluders


@dataclass(frozen=True)
class Leak:
    """One thing that somebody learns by design.

    Attributes:
        id: Stable id, quoted by cards, docs and tests.
        who: Who learns it.
        what: What is learned; `{n}`, `{c}`, `{u}`, `{honest}` are filled in from the run's facts.
        adversary: What that party must do to learn it.
        protocol: Which protocol, with the rule it comes from.
        condition: When it applies, in words.
        applies: The same as a predicate.
    """

    id: str
    who: str
    what: str
    adversary: str
    protocol: str
    condition: str
    applies: Callable[[RunFacts], bool] = field(repr=False, compare=False)

    def sentence(self, facts: RunFacts) -> str:
        """`what` with this run's numbers."""
        return _fill(self.what, facts)

    def adversary_in(self, facts: RunFacts) -> str:
        """`adversary` with this run's numbers."""
        return _fill(self.adversary, facts)


def leaks_for(facts: RunFacts) -> list[Leak]:
    """The lines of the table that apply to a run, in the table's order."""
    return [leak for leak in LEAKS if leak.applies(facts)]


def _sum(facts: RunFacts) -> bool:
    """A run of sealed sums among members of one role."""
    return facts.story == "horizontal"


def _vertical(facts: RunFacts) -> bool:
    return facts.story == "vertical"


def _shares_a_role(facts: RunFacts) -> bool:
    """A vertical run in which some role has several members, which share its tower."""
    return _vertical(facts) and any(size > 1 for size in facts.role_sizes.values())


def _federated(facts: RunFacts) -> bool:
    return facts.story == "scoring" and facts.release_policy == "members"


LEAKS: tuple[Leak, ...] = (
    Leak(
        "coordinator-traffic",
        "coordinator",
        "Sizes and times of messages, who takes part, who drops out and when; the agreement, the run's "
        "method and settings, and the number of rounds.",
        "honest-but-curious coordinator, no member",
        "every protocol (6)",
        "always",
        lambda _: True,
    ),
    Leak(
        "ledger-entries",
        "every reader of the ledger",
        "When decisions were taken, how their status moved and under which versions of policy and model; which members "
        "were in each opened sum and score. What was decided, for whom and why only to whoever is given that decision.",
        "anybody who is given an export",
        "ledger (A7 iv, C2)",
        "always",
        lambda _: True,
    ),
    Leak(
        "members-sums",
        "every member",
        "The sum of each step over the contributing members, of which at least {honest} do not collude; "
        "never a term of it.",
        "any member, alone or colluding with up to {c} others and the coordinator",
        "sealed sum (section 1)",
        "training and evaluation",
        _sum,
    ),
    Leak(
        "all-but-one",
        "all members but one, together",
        "With {n} members, {n} minus 1 of them together subtract their own inputs and know the last one's.",
        "more colluding members than the agreement's {c}",
        "sealed sum (section 1)",
        "training and evaluation",
        _sum,
    ),
    Leak(
        "chosen-subset",
        "members",
        "A lying coordinator may choose which members a sum is over, as long as at least {honest} of them do "
        "not collude; it cannot make that one.",
        "malicious coordinator colluding with up to {c} members",
        "sealed sum (A15)",
        "training and evaluation",
        _sum,
    ),
    Leak(
        "weight-bucket",
        "coordinator and members",
        "The power of two nearest to each member's share of the rows, not the number of rows.",
        "anybody who reads the key epoch's first messages",
        "sealed sum (A7 ii)",
        "training",
        _sum,
    ),
    Leak(
        "bin-histogram",
        "every member",
        "Good and bad counts per cell of a public grid and feature, summed over the cohort: hence the "
        "cohort's default rate and its marginal distributions.",
        "any member",
        "sealed sum, binning (A9, B7)",
        "features were binned together",
        lambda f: _sum(f) and f.binned,
    ),
    Leak(
        "two-member-sum",
        "every member",
        "With three members and one colluder allowed, every histogram and update is the sum of two members: "
        "either of them knows the other's, if the third helps it.",
        "one member colluding with one other",
        "sealed sum (D4, E2)",
        "cohort of three",
        lambda f: _sum(f) and f.cohort == 3,
    ),
    Leak(
        "small-role",
        "members of a small role",
        "A role with fewer contributors than c + 2 shares no sum of its own: two members of one role would "
        "each subtract themselves.",
        "any member of that role; such a role takes part with one member, or not at all",
        "sealed sum (A9)",
        "a role has fewer than c + 2 members",
        lambda f: any(s < f.max_colluders + 2 for s in f.role_sizes.values()),
    ),
    Leak(
        "dropout-named",
        "coordinator and members",
        "Which members were missing from which sum; it is written on the card and in the ledger.",
        "anybody who reads the card",
        "sealed sum (A7 iv)",
        "a member dropped out",
        lambda f: _sum(f) and f.dropped,
    ),
    Leak(
        "leaver-difference",
        "every member",
        "Members learn approximately the leaver's gradient: two sums at nearly the same model differ by the "
        "member that left between them.",
        "any member",
        "sealed sum (A7 iii)",
        "the roster changed, which the agreement must allow",
        lambda f: _sum(f) and f.roster_changed and f.allow_roster_change,
    ),
    Leak(
        "released-evaluation",
        "every reader of the card",
        "AUC, KS, Gini, Brier, a calibration table, a ROC curve and a coarse score histogram of the cohort's "
        "hold-out as a whole; cells below the minimum count, and their complements, are left out.",
        "any reader",
        "evaluation (D1, D2, D3)",
        "the run was evaluated",
        lambda f: f.story != "scoring" and f.evaluated,
    ),
    Leak(
        "released-shapes",
        "every reader of the card",
        "The shape of every feature in the model: points, weight of evidence and share of rows per bin of "
        "the cohort, information value.",
        "any reader",
        "evaluation (D2)",
        "the run's members signed feature shapes",
        lambda f: f.story != "scoring" and f.shapes_released,
    ),
    Leak(
        "model-to-platform",
        "platform operator",
        "The trained model itself, hence whatever a model of this size remembers about its training rows.",
        "platform operator; whoever it shows the model to",
        "release policy (section 9 of the design)",
        'release policy "platform"',
        lambda f: _sum(f) and f.release_policy == "platform",
    ),
    Leak(
        "model-to-members",
        "every member",
        "The trained model after every step, hence whatever it remembers about the cohort's training rows.",
        "any member",
        "sealed sum",
        "training",
        _sum,
    ),
    Leak(
        "unsealed-sum",
        "coordinator",
        "The sum of every step: masks hide each member, but nothing hides the total.",
        "honest-but-curious coordinator",
        "benchmark only",
        "sealing was switched off",
        lambda f: not f.sealed,
    ),
    Leak(
        "partial-score-sums",
        "label holder",
        "As many noisy sums of the other roles' partial scores per training row as there are passes, at most 8 for one "
        "version of its data.",
        "label holder, which counts among the agreement's {c} colluders",
        "vertical training (B5)",
        "vertical training",
        _vertical,
    ),
    Leak(
        "holdout-score-sums",
        "label holder",
        "One sum of the other roles' partial scores per held-out row and run, in steps of 1/64 log-odds and without "
        "noise, as a federated score shows it.",
        "label holder, which counts among the agreement's {c} colluders",
        "vertical training (B5, D1)",
        "vertical training",
        _vertical,
    ),
    Leak(
        "partial-scores-bilateral",
        "label holder",
        "With one other party that sum is the party's partial score itself.",
        "label holder",
        "vertical training (B5)",
        "the agreement allows bilateral runs",
        lambda f: _vertical(f) and f.bilateral,
    ),
    Leak(
        "residual-sums",
        "feature holder",
        "A noisy sum of residuals per column and pass, over the rows of all label holders; on the first pass the "
        "number of bads per bin. The noise is a hurdle for single rows and not a differential privacy guarantee.",
        "feature holder, alone or colluding with up to {c} label holders",
        "vertical training (B3, B4, B6)",
        "vertical training",
        _vertical,
    ),
    Leak(
        "intersection-one-sided",
        "feature holder",
        "Which of its consented customers each label holder has; the label holder learns sizes only.",
        "feature holder",
        "private set intersection (B9)",
        "vertical training",
        _vertical,
    ),
    Leak(
        "set-sizes",
        "both members of an intersection",
        "How many consented entities the other one brings.",
        "any member of the pair",
        "private set intersection (B9)",
        "vertical training",
        _vertical,
    ),
    Leak(
        "role-overlap",
        "members of a role with several",
        "Of two members of a role that know one customer, the later one learns that the earlier one knows it too.",
        "the later one",
        "private set intersection (C10)",
        "a role has several members",
        _shares_a_role,
    ),
    Leak(
        "aligned-sizes",
        "coordinator and members",
        "How many aligned rows each label holder has and how many of them are held out; how many columns, and cells of "
        "pairs, each role asks about.",
        "anybody in the run; the coordinator from sizes",
        "vertical training",
        "vertical training",
        _vertical,
    ),
    Leak(
        "role-sums",
        "members of a role with several",
        "The role's totals over its members: histograms of its features, second moments, gradient and curvature of "
        "every pass; of label holders also the score histogram by class. All members but one of a role know the last "
        "one's part; with three members and one colluding, it is the sum of two.",
        "any member of the role, alone or colluding with up to {c} others and the coordinator",
        "role sum (A3, A9, D4)",
        "a role has several members",
        _shares_a_role,
    ),
    Leak(
        "tower-to-role",
        "members of a role",
        "The role's tower after every pass, hence whatever it remembers about the role's training rows.",
        "any member of the role",
        "vertical training",
        "vertical training",
        _vertical,
    ),
    Leak(
        "base-rate",
        "every member",
        "The default rate of the aligned population: it is the starting point of the optimiser.",
        "any member",
        "vertical training (B7)",
        "vertical training",
        _vertical,
    ),
    Leak(
        "caller-features",
        "platform operator",
        "The features in the request: with a released model the caller itself sends them to the platform.",
        "platform operator",
        "scoring, released mode",
        "scoring by a released model",
        lambda f: f.story == "scoring" and f.release_policy == "platform",
    ),
    Leak(
        "scores-total",
        "platform operator",
        "The total score rounded to 1/64 log-odds, reasons flagged, degraded roles; across days with "
        "different rosters the difference is approximately the absent member's partial score.",
        "platform operator",
        "federated scoring (C2, 6)",
        "federated scoring",
        lambda f: f.story == "scoring" and f.release_policy == "members",
    ),
    Leak(
        "entity-asked",
        "every member",
        "That an entity was asked for, when, for which task and purpose.",
        "any member",
        "federated scoring (section 6 of the design)",
        "federated scoring",
        lambda f: f.story == "scoring" and f.release_policy == "members",
    ),
    Leak(
        "score-anonymity-set",
        "platform operator",
        "One member per role answers for an entity: a partial score hides among the roles, not among the nodes.",
        "platform operator that knows who answers",
        "federated scoring (C6, C10)",
        "federated scoring",
        lambda f: f.story == "scoring" and f.release_policy == "members",
    ),
    Leak(
        "openings-told",
        "every member",
        "Which members were in each opened score, when, for which task, purpose and requester, and about how many "
        "entities: the gateway's log of openings, told to every node so that one that is left out notices.",
        "any member",
        "federated scoring (C2)",
        "federated scoring",
        _federated,
    ),
    Leak(
        "evidence-bits",
        "platform operator",
        "Of an order or invoice that it may ask about: whether somebody was paid for it, paid its amount, shipped, "
        "delivered or pledged it; not who, and not how many. Asked again later, that something was added in between.",
        "platform operator",
        "three-way match (C7)",
        "federated scoring",
        _federated,
    ),
    Leak(
        "answerers-named",
        "every member",
        "Which member of a role answers for an entity, where a grant names it: members hold the key that reads it.",
        "any member that is asked under the grant; the platform with one colluding member",
        "federated scoring (C10)",
        "federated scoring",
        _federated,
    ),
    Leak(
        "token-dictionary",
        "platform operator",
        "Whose token is whose, for every identifier that it can guess, and which of them its clients asked about.",
        "platform operator that a member or an issuer has given the token key",
        "federated scoring (C8)",
        "federated scoring",
        _federated,
    ),
)


_PREAMBLE = """\
# What leaks by design

Generated from `policies/protocol_steps.py` and `policies/leakage.py` by `python -m policies.leakage`; edit there. First
what every message tells its receiver, then each leak by its id. The model card of a run prints the leaks that apply to
it, with its own numbers: n members, at most c of them colluding, at least u contributing to every opened sum. Whatever
is not on this page is not meant to leak: report it.
"""


def leakage_document() -> str:
    """docs/leakage.md, generated from the table.

    Write it with `python -m policies.leakage > docs/leakage.md`.
    """
    lines = [_PREAMBLE, "## Step by step\n", step_tables(), "# The leaks\n"]
    for leak in LEAKS:
        lines += [
            f"## `{leak.id}`",
            "",
            f"**Who:** {leak.who}. **When:** {leak.condition}. **Protocol:** {leak.protocol}.",
            "",
            _fill(leak.what, None),
            "",
            f"*Adversary:* {_fill(leak.adversary, None)}.",
            "",
        ]
    return "\n".join(lines)


def _fill(text: str, facts: RunFacts | None) -> str:
    """Put a run's numbers into a sentence, or their letters; another name in braces is our mistake: KeyError."""
    if facts is None:
        return text.format(n="n", c="c", u="u", honest="u - c")
    return text.format(n=facts.cohort, c=facts.max_colluders, u=facts.min_survivors, honest=facts.honest_contributors)


if __name__ == "__main__":
    print(leakage_document(), end="")  # noqa: T201 - the one purpose of running this module
