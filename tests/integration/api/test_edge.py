"""What every answer has, and how much may be under way."""

import asyncio

import httpx
import pytest

from coordinator.api.edge import Edge


@pytest.mark.parametrize("path", ["/healthz", "/v1/decisions", "/v1/nothing", "/oauth/token", "/v1/openapi.json"])
def test_every_answer_has_the_headers_that_people_expect(standing, path):
    headers = standing.request("GET", path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert len(headers["x-request-id"]) == 16
    assert "server" not in headers


def test_hsts_over_tls_alone(standing):
    async def ask(scheme):
        transport = httpx.ASGITransport(standing.process.app)
        async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://api.example") as client:
            return (await client.get("/healthz")).headers

    assert "strict-transport-security" in asyncio.run(ask("https"))
    assert "strict-transport-security" not in asyncio.run(ask("http"))


def test_callers_request_id_is_kept_if_it_has_the_form_of_one(standing):
    assert standing.request("GET", "/healthz", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert standing.request("GET", "/healthz", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"


def test_requests_beyond_the_bound_are_told_at_once_and_health_still_answers():
    async def script():
        release = asyncio.Event()

        async def slow(scope, receive, send):
            if scope["path"] != "/healthz":
                await release.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        edge = Edge(slow, max_in_flight=2)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://api") as client:
            waiting = [asyncio.create_task(client.get("/v1/x")) for _ in range(2)]
            while edge.in_flight < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
            refused, healthy = await client.get("/v1/x"), await client.get("/healthz")
            release.set()
            return refused, healthy, [one.status_code for one in await asyncio.gather(*waiting)], edge.in_flight

    refused, healthy, answered, left = asyncio.run(script())
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert healthy.status_code == 200
    assert answered == [200, 200]
    assert left == 0


def test_client_that_asks_too_often_waits(desk):
    clients = desk.process.authenticator._clients
    secret = clients.add("slow-app", tenant="acme", role="platform", requests_per_minute=3)
    desk.platform.secrets["slow-app"] = secret.text()
    answers = [desk.get("/v1/offers", by="slow-app") for _ in range(4)]
    assert [one.status_code for one in answers] == [200, 200, 200, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert desk.get("/v1/offers").status_code == 200


def test_not_ready_is_said_while_the_process_lives(desk):
    for path in (desk.platform.settings.parent / "clients").glob("signing-*.pem"):
        path.unlink()
    desk.process.authenticator._keys._look_at = 0.0
    assert desk.request("GET", "/readyz").status_code == 503
    assert desk.request("GET", "/healthz").status_code == 200


def test_body_whose_length_is_not_declared_is_bounded_all_the_same(standing):
    async def parts():
        for _ in range(40):
            yield b" " * 10_000

    answer = standing.post("/v1/decisions", headers={"Content-Type": "application/json"}, content=parts())
    assert answer.status_code == 413
