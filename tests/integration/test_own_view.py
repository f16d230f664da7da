"""At the end of a run a member sees its own hold-out beside the cohort's, and nobody else does."""

import dataclasses


def own_views(consortium, member):
    entries = consortium.node_stores[member].journal_entries()
    return [details for _, _, event, details in entries if event == "own hold-out"]


def test_each_member_keeps_its_own_view_and_none_of_it_leaves(found, short_run):
    bodies = []

    def relay(_member, _action, body, deliver):
        reply = deliver(body)
        bodies.append(reply)
        return reply

    consortium = found(relay=relay)
    outcome = consortium.run(short_run)

    sent = b"".join(bodies)
    quality = outcome.released.table.quality
    views = {member: own_views(consortium, member)[-1] for member in consortium.members}
    assert {view["cohort_auc"] for view in views.values()} == {f"{quality.auc:.4f}"}
    assert len({view["own_auc"] for view in views.values()}) == len(consortium.members)
    for view in views.values():
        assert view["own_auc"].encode() not in sent


def test_a_member_without_bads_of_its_own_is_told_so(found, short_run):
    consortium = found()
    data = consortium.data["bank-3"]
    consortium.data["bank-3"] = dataclasses.replace(data, label=data.label * 0)
    consortium.restart_node("bank-3")
    consortium.run(short_run)

    assert "too few" in own_views(consortium, "bank-3")[-1]["note"]
