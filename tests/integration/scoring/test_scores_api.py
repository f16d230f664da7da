"""`POST /v1/scores` and `GET /healthz` of the real application."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.api.app import create_app
from coordinator.api.model_source import ModelUnavailable, model_from_path, model_from_registry
from coordinator.registry import Registry
from models.artefact import load_model
from models.scoring import score_frame
from policies.release import sign_artefact


def test_score_is_that_of_the_model(client, model, applicant):
    answer = client.post("/v1/scores", json={"features": applicant})

    assert answer.status_code == 200
    body = answer.json()
    expected = score_frame(model, {name: [value] for name, value in applicant.items()})
    assert body["pd"] == pytest.approx(float(expected.pd[0]), abs=1e-12)
    assert body["score_points"] == pytest.approx(float(expected.points[0]))
    assert body["model_version"] == model.version
    assert body["task"] == "credit"


def test_contributions_add_up_to_the_score_in_points_and_in_log_odds(client, applicant):
    body = client.post("/v1/scores", json={"features": applicant}).json()

    points = body["base_points"] + sum(c["score_points"] for c in body["contributions"])
    assert points == pytest.approx(body["score_points"])
    odds_of_default = body["pd"] / (1 - body["pd"])
    points_per_nat = 20 / math.log(2)
    assert body["score_points"] == pytest.approx(600 - points_per_nat * (math.log(odds_of_default) + math.log(50)))


def test_reasons_are_ranked_by_the_points_they_cost(client):
    risky = {"utilization": 4.0, "age": 22, "income": None}
    body = client.post("/v1/scores", json={"features": risky}).json()

    lost = [reason["points_lost"] for reason in body["reasons"]]
    assert lost == sorted(lost, reverse=True)
    assert [reason["rank"] for reason in body["reasons"]] == list(range(1, len(lost) + 1))
    assert body["reasons"][0]["reason_code"] == "UTILIZATION"


def test_value_that_may_be_missing_can_be_null_or_left_out(client, applicant):
    as_null = client.post("/v1/scores", json={"features": applicant | {"income": None}})
    del applicant["income"]
    left_out = client.post("/v1/scores", json={"features": applicant})

    assert as_null.status_code == 200
    assert as_null.json() == left_out.json()


def test_answer_about_a_person_is_not_kept_by_caches(client, applicant):
    assert client.post("/v1/scores", json={"features": applicant}).headers["cache-control"] == "no-store"


def test_health_names_the_model(client, model):
    answer = client.get("/healthz")

    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "task": "credit", "model_version": model.version}


def test_every_example_of_the_description_is_answered(client):
    description = client.get("/v1/openapi.json").json()
    body = description["paths"]["/v1/scores"]["post"]["requestBody"]["content"]["application/json"]

    assert set(body["examples"]) == {"typical", "missing"}
    for example in body["examples"].values():
        assert client.post("/v1/scores", json=example["value"]).status_code == 200


def test_description_states_the_feature_contract(client):
    description = client.get("/v1/openapi.json").json()
    body = description["paths"]["/v1/scores"]["post"]["requestBody"]["content"]["application/json"]

    features = body["schema"]["properties"]["features"]
    assert features["required"] == ["utilization", "age"]
    assert features["additionalProperties"] is False
    assert features["properties"]["age"]["type"] == "integer"
    assert features["properties"]["age"]["maximum"] == 120
    assert features["properties"]["income"]["type"] == ["number", "null"]
    refusals = description["paths"]["/v1/scores"]["post"]["responses"]
    assert {"400", "413", "415", "422"} <= set(refusals)
    assert "application/problem+json" in refusals["422"]["content"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/scores", 405), ("GET", "/nowhere", 404), ("DELETE", "/healthz", 405)]
)
def test_address_or_method_that_is_not_there_is_a_problem_document(client, method, path, status):
    answer = client.request(method, path)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    if status == 405:
        assert answer.headers["allow"]


def test_failure_inside_is_a_problem_document_without_a_traceback(client, applicant, monkeypatch, caplog):
    def explode(*_arguments):
        raise RuntimeError("the secret cause")

    monkeypatch.setattr("coordinator.api.scores.score_frame", explode)
    answer = client.post("/v1/scores", json={"features": applicant})

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_api_does_not_start_with_a_model_that_was_changed(model_path):
    data = bytearray(model_path.read_bytes())
    version = hashlib.sha256(data).hexdigest()
    data[-1] ^= 1
    model_path.write_bytes(bytes(data))

    with pytest.raises(ModelUnavailable, match="expected the model version"):
        create_app(lambda: model_from_path(model_path, version))


def test_model_is_found_in_the_folder_of_its_run(model_path, model):
    assert model_from_path(model_path.parent).version == model.version


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08" + bytes(20), b"\xff" * 64])
def test_file_that_is_no_model_is_one_sentence(tmp_path, content):
    path = tmp_path / "model.tallystick"
    path.write_bytes(content)

    with pytest.raises(ModelUnavailable) as refused:
        model_from_path(path)
    assert "\n" not in str(refused.value)


def test_path_without_a_model_is_one_sentence(tmp_path):
    with pytest.raises(ModelUnavailable, match="found nothing"):
        model_from_path(tmp_path / "absent")
    with pytest.raises(ModelUnavailable, match=r"give the model\.tallystick"):
        model_from_path(tmp_path)


def test_registered_model_is_served_only_with_enough_signatures(tmp_path, artefact, model):
    keys = {name: Ed25519PrivateKey.from_private_bytes(bytes([k]) * 32) for k, name in enumerate(("a", "b", "c"), 1)}
    signatures = {name: sign_artefact("run-1", artefact, key) for name, key in keys.items()}
    identity_keys = {name: key.public_key().public_bytes_raw() for name, key in keys.items()}
    registry = Registry(tmp_path)
    registry.open_run("run-1", tags={}).register_model("signed", artefact, signatures=signatures | {"c": bytes(64)})

    served = model_from_registry(registry, "signed", identity_keys=identity_keys, min_signers=2)
    assert served.version == model.version
    with pytest.raises(ModelUnavailable, match="at least 3 members of the agreement, found 2"):
        model_from_registry(registry, "signed", identity_keys=identity_keys, min_signers=3)


def test_scores_do_not_depend_on_the_company_of_other_rows(model, applicant):
    alone = score_frame(model, {name: [value] for name, value in applicant.items()})
    together = score_frame(model, {name: [value, value] for name, value in applicant.items()})

    assert np.allclose(alone.pd[0], together.pd, atol=1e-15)


def test_version_of_the_model_is_the_hash_of_its_bytes(artefact):
    assert load_model(artefact).version == hashlib.sha256(artefact).hexdigest()
