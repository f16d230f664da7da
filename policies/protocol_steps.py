"""What each party learns in each protocol, step by step: one row for every kind of message between members.

The rows are the claim; docs/leakage.md is generated from them, every leak of `policies.leakage` belongs to one of them,
and transcript tests hold real runs against them: a letter of a kind, or between roles, that has no row fails the test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Protocol = Literal["sealed sum", "alignment", "vertical training", "federated scoring", "ledger"]


@dataclass(frozen=True)
class ProtocolStep:
    """One step of a protocol.

    Attributes:
        protocol: Which one.
        message: Kind of the message, its signature's domain or its name in the .proto file.
        sender: Who sends it, as a role in the protocol.
        receiver: Who may read it; the coordinator carries every one and reads none unless it is named here.
        learns: What the receiver learns from it.
        hidden_by: What hides the rest, with the rule.
        leaks: Ids in `policies.leakage` of what is learned by design.
    """

    protocol: Protocol
    message: str
    sender: str
    receiver: str
    learns: str
    hidden_by: str
    leaks: tuple[str, ...] = ()


STEPS: tuple[ProtocolStep, ...] = (
    ProtocolStep(
        "sealed sum",
        "announcement",
        "member",
        "everybody",
        "public keys of the epoch; its weight as a power of two",
        "signed; bound to agreement and run (A10)",
        ("weight-bucket", "coordinator-traffic"),
    ),
    ProtocolStep(
        "sealed sum",
        "upload",
        "member",
        "coordinator",
        "nothing but its size",
        "one-time masks under a sealing key that the coordinator lacks (A1 to A8)",
        ("coordinator-traffic", "unsealed-sum"),
    ),
    ProtocolStep(
        "sealed sum",
        "seeds, shares",
        "member",
        "coordinator",
        "who dropped out",
        "a seed or a share of one peer, never both, for one survivor set (A1, A2, A6)",
        ("dropout-named",),
    ),
    ProtocolStep(
        "sealed sum",
        "sealed sum",
        "coordinator",
        "members",
        "the sum over the survivors, hence what follows from it: bins, model, evaluation",
        "at least u - c honest terms in it; tags (A2, A4)",
        (
            "members-sums",
            "all-but-one",
            "chosen-subset",
            "bin-histogram",
            "two-member-sum",
            "small-role",
            "leaver-difference",
            "model-to-members",
        ),
    ),
    ProtocolStep(
        "sealed sum",
        "released table, model",
        "member",
        "everybody",
        "the signed figures of the cohort; the model under release policy platform",
        "cells under the minimum are merged before anything is computed from them (D2)",
        ("released-evaluation", "released-shapes", "model-to-platform"),
    ),
    ProtocolStep(
        "alignment",
        "alignment hello",
        "label holder and feature holder",
        "the other of the two",
        "how many consented entities it has",
        "encrypted member to member (B8)",
        ("set-sizes",),
    ),
    ProtocolStep(
        "alignment",
        "alignment blinded",
        "label holder and feature holder",
        "the other of the two",
        "nothing",
        "points raised to a scalar fresh for pair, direction and session (B9)",
    ),
    ProtocolStep(
        "alignment",
        "alignment raised",
        "label holder",
        "feature holder",
        "which of its entities the label holder has, and where they stand in a secret order",
        "only the feature holder matches; the identifiers are keyed (B8, B9)",
        ("intersection-one-sided",),
    ),
    ProtocolStep(
        "alignment",
        "alignment in a role",
        "member of a role",
        "a later member of the same role",
        "which of its entities the earlier member has too, so that it stays silent about them",
        "as above; nobody else learns it (C10)",
        ("role-overlap",),
    ),
    ProtocolStep(
        "vertical training",
        "vertical-hello",
        "member",
        "every member",
        "a fresh nonce",
        "signed (A10)",
    ),
    ProtocolStep(
        "vertical training",
        "vertical-rows",
        "label holder",
        "every member of the task",
        "how many rows it has, and which places of the order are held out",
        "the order is secret; a feature holder knows its own entities' places alone",
        ("aligned-sizes",),
    ),
    ProtocolStep(
        "vertical training",
        "vertical-columns",
        "feature holder",
        "every member of the task",
        "how many columns its role's basis has",
        "signed",
        ("aligned-sizes",),
    ),
    ProtocolStep(
        "vertical training",
        "role-sum",
        "member of a role",
        "the role's other members",
        "totals of the role: histograms, curvature, gradient, and of label holders score histograms",
        "pairwise one-time masks, encrypted member to member; the relay reads neither terms nor total (A3, A9)",
        ("role-sums",),
    ),
    ProtocolStep(
        "vertical training",
        "vertical-opening",
        "label holder",
        "feature holder",
        "the share of bads; the label holder's public key",
        "the key is checked against its signature (B2)",
        ("base-rate",),
    ),
    ProtocolStep(
        "vertical training",
        "masked-scores",
        "feature holder",
        "label holder",
        "per row and pass, the sum of all feature holders' partial scores with N(0, 0.5) of each, in steps of 1/64",
        "pairwise masks modulo 2^64; fresh noise on every row and pass (B5)",
        ("partial-score-sums", "partial-scores-bilateral"),
    ),
    ProtocolStep(
        "vertical training",
        "encrypted-residuals",
        "label holder",
        "feature holder",
        "nothing",
        "BFV under the label holder's own key (IND-CPA)",
    ),
    ProtocolStep(
        "vertical training",
        "vertical-products",
        "feature holder",
        "label holder",
        "nothing; how many pairwise cells are asked about",
        "a fresh encryption of a mask, flooding, one prime (B2)",
        ("aligned-sizes",),
    ),
    ProtocolStep(
        "vertical training",
        "folded-sums",
        "label holder",
        "feature holder",
        "per column and pass, the sum of residual times column over all label holders, with N(0, 2) rows of each",
        "one number per column, masks between label holders, minimum support, query budget (B1, B3, B4, B6)",
        ("residual-sums",),
    ),
    ProtocolStep(
        "vertical training",
        "holdout-scores",
        "feature holder",
        "label holder",
        "once, per held-out row, the sum of all feature holders' partial scores in steps of 1/64",
        "pairwise masks modulo 2^64; no residual was computed on these rows",
        ("holdout-score-sums", "partial-scores-bilateral"),
    ),
    ProtocolStep(
        "vertical training",
        "vertical-recalibration",
        "label holder",
        "feature holder",
        "the factor by which every tower is multiplied",
        "signed; equal at all label holders",
    ),
    ProtocolStep(
        "vertical training",
        "vertical-tower-report",
        "member",
        "every member of the task",
        "whether the towers of a role are equal",
        "a hash keyed by the epoch's members' key (A4)",
    ),
    ProtocolStep(
        "vertical training",
        "released table",
        "label holder",
        "everybody",
        "the signed figures of the label role's hold-out; the model's keyed version and bias",
        "cells under the minimum are merged before anything is computed from them (D2)",
        ("released-evaluation",),
    ),
    ProtocolStep(
        "vertical training",
        "tower (never sent)",
        "role",
        "its own members",
        "the role's tower, hence whatever it remembers about the role's training rows",
        "it stays on its members' disks",
        ("tower-to-role",),
    ),
    ProtocolStep(
        "federated scoring",
        "request",
        "coordinator",
        "every online member",
        "that an entity was asked for, when, for which task and purpose",
        "a keyed token for the entity; grant and purpose are checked before the look-up (C5)",
        ("entity-asked", "answerers-named"),
    ),
    ProtocolStep(
        "federated scoring",
        "token, under a grant",
        "client",
        "coordinator",
        "which entity is asked for again, by whom and under which grant; not whose it is",
        "tokens are keyed by the members; who answers for an entity stands in its grant as a keyed tag (C8, C10)",
        ("token-dictionary",),
    ),
    ProtocolStep(
        "federated scoring",
        "upload",
        "member",
        "coordinator",
        "nothing",
        "one-time masks modulo 2^64, bound to the canonical request; unknown entities give zeros (C1, C3, C5)",
    ),
    ProtocolStep(
        "federated scoring",
        "total",
        "coordinator opens it",
        "platform",
        "the total score in steps of 1/64, votes per reason code, degraded roles",
        "one survivor set per entity and window; at least u survivors; at least two that know it (C2, C4, C6)",
        ("scores-total", "score-anonymity-set"),
    ),
    ProtocolStep(
        "federated scoring",
        "evidence of a document",
        "coordinator opens it",
        "platform",
        "for each question about an order or invoice whether somebody says yes; not who, and not how many",
        "a yes is a fresh random number, a no is zero, added under the same masks: only zero or not opens (C2, C7)",
        ("evidence-bits",),
    ),
    ProtocolStep(
        "federated scoring",
        "log of openings",
        "coordinator",
        "every member",
        "which members were in each opened score, when, for which task, purpose and requester",
        "no score and no entity; signed and chained, so that a member that is left out notices",
        ("openings-told",),
    ),
    ProtocolStep(
        "federated scoring",
        "released mode",
        "caller",
        "platform",
        "the features that the caller sends",
        "nothing: the caller decides",
        ("caller-features",),
    ),
    ProtocolStep(
        "ledger",
        "entries, checkpoints",
        "coordinator",
        "whoever reads an export; the nodes, who co-sign it",
        "when decisions were taken and under which versions; which members were in each opened sum and score",
        "entries commit to the rest by HMAC under a salt of their own",
        ("ledger-entries",),
    ),
)


def step_tables() -> str:
    """The tables as Markdown, one a protocol."""
    lines: list[str] = []
    for protocol in dict.fromkeys(row.protocol for row in STEPS):
        lines += [
            f"### {protocol.capitalize()}",
            "",
            "| message | who -> whom | what the receiver learns | what hides the rest | leaks |",
            "|---|---|---|---|---|",
        ]
        for row in STEPS:
            if row.protocol == protocol:
                ids = ", ".join(f"[`{leak}`](#{leak})" for leak in row.leaks) or "-"
                lines.append(
                    f"| {row.message} | {row.sender} -> {row.receiver} | {row.learns} | {row.hidden_by} | {ids} |"
                )
        lines.append("")
    return "\n".join(lines)
