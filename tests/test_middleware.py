# SPDX-License-Identifier: GPL-2.0-or-later
"""What every request passes: errors in one shape, hosts, and the budget as clients meet it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest import errors
from chatgpt_rest.clock import iso
from chatgpt_rest.refusing import STATUS
from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT, answer_to
from tests.house import NOON, Answered, Client, House, ManualClock, open_house, speak

NEW: Final = "/conversations/new"
CANARY: Final = "canary-7f3a"


@pytest.fixture
def groceries(chatgpt: SimulatedChatGPT) -> SimConversation:
    """A conversation that ChatGPT has and the mirror has not."""
    return chatgpt.alice.add_conversation("Groceries", [("What do I need?", "Milk.")])


async def ask(client: Client, prompt: str = "Hello?", **fields: Any) -> Answered:
    """Ask in a new conversation."""
    return await client.post(NEW, json={"prompt": prompt, **fields})


# ----------------------------------------------------------------------------------------------------------- errors


def test_every_error_has_a_status() -> None:
    """Each error a client can meet is in the one table, by itself or by its kind."""
    elsewhere = {errors.MirrorError, errors.StartError, errors.BudgetSpent, errors.UpstreamLimit, errors.UpstreamError}
    every = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.MirrorError)}
    assert [kind for kind in every - elsewhere if not any(base in STATUS for base in kind.__mro__)] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", f"/{CANARY}"),
        ("GET", f"/conversations/c0ffee/messages/{CANARY}"),
        ("DELETE", "/conversations/"),
        ("GET", "//conversations"),
        ("GET", "/conversations/../healthz"),
        ("GET", f"/%00{CANARY}"),
        ("GET", f"/%ff{CANARY}?{CANARY}={CANARY}"),
    ],
)
async def test_an_unknown_path(client: Client, method: str, path: str) -> None:
    """What is not served is a 404 that repeats nothing, with or without a credential."""
    for who in (client, client.as_(None)):
        missing = await who.request(method, path)
        assert (missing.status, missing.json) == (404, {"error": "not found", "code": "not_found"})


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/conversations", "GET,HEAD"),
        ("PUT", "/conversations/c0ffee", "DELETE,GET,HEAD,PATCH"),
        ("DELETE", "/conversations/c0ffee/messages", "GET,HEAD"),
        ("GET", "/conversations/c0ffee/ask", "POST"),
        ("PATCH", "/healthz", "GET,HEAD"),
        ("OPTIONS", "/conversations", "GET,HEAD"),
        ("TRACE", "/budget", "GET,HEAD"),
    ],
)
async def test_a_method_that_is_not_served(client: Client, method: str, path: str, allowed: str) -> None:
    """A wrong method is a 405 that says which ones are right."""
    refused = await client.request(method, path)
    assert (refused.status, refused.json) == (405, {"error": "method not allowed", "code": "method_not_allowed"})
    assert refused.headers["Allow"] == allowed


async def test_a_head_of_an_error_has_no_body(client: Client) -> None:
    """HEAD of what is not there has the status and no body."""
    missing = await client.request("HEAD", "/nowhere")
    assert (missing.status, missing.body) == (404, b"")


async def test_an_exception_is_logged_and_opaque(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw is a 500 that tells nothing; the log has the traceback and the route's template."""
    await house.client.get("/conversations")
    with closing(sqlite3.connect(house.mirror.path)) as connection:
        connection.execute("alter table conversation rename to mislaid")
        connection.commit()
    with caplog.at_level(logging.ERROR):
        failed = await house.client.get(f"/conversations/{CANARY}/messages")
    assert failed.status == 500
    assert failed.json == {"error": "something went wrong here; the log says what", "code": "internal"}
    (record,) = caplog.records
    assert record.getMessage() == "a request failed method=GET path=/conversations/{id}/messages"
    assert record.exc_info is not None
    assert "no such table" in caplog.text


async def test_an_exception_while_an_error_is_told(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Even what breaks outside the error middleware is an opaque 500 in JSON."""
    chatgpt.fault("conversation", error="model_cap")
    await ask(house.client)
    with closing(sqlite3.connect(house.mirror.path)) as connection:
        connection.execute("alter table upstream_request rename to mislaid")
        connection.commit()
    failed = await house.client.post(NEW, json={"prompt": "?"}, headers={"Idempotency-Key": "k1"})
    assert (failed.status, failed.json["code"]) == (500, "internal")


async def test_a_key_is_not_blamed_for_the_token_behind_it(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Where upstream refuses the token that an API key's ask went with, the key holds good: 503, not 401."""
    await house.client.get("/conversations")
    key, digest = house.auth.create_key()
    await house.mirror.accounts.create_key(chatgpt.alice.user_id, digest, name="test")
    client = house.client.as_(key.reveal())
    chatgpt.alice.revoke(str(house.client.authorization))
    for _ in range(2):
        refused = await ask(client)
        assert (refused.status, refused.json["code"]) == (503, "no_access_token")
        assert "WWW-Authenticate" not in refused.headers
    assert (await client.get("/conversations")).status == 200
    assert chatgpt.received("POST") == 1


async def test_errors_are_kept_by_nobody(client: Client) -> None:
    """An error may not be cached, and a 401 says how to come in."""
    refused = await client.as_(None).get("/conversations")
    assert refused.headers["Cache-Control"] == "no-store"
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")


# ------------------------------------------------------------------------------------------------------------ hosts


@pytest.fixture
async def named(tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock) -> AsyncIterator[House]:
    """A house with a public address and two further names."""
    async with open_house(
        tmp_path,
        chatgpt,
        base_url,
        clock,
        server__public_url="https://chats.example.org",
        server__allowed_hosts="other.example.org, Behind.Example.org",
    ) as house:
        yield house


@pytest.mark.parametrize(
    ("host", "is_served"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8000", True),
        ("127.0.0.1:99999", True),
        ("localhost", True),
        ("LocalHost:8000", True),
        ("chats.example.org", True),
        ("behind.example.org:443", True),
        ("evil.example.org", False),
        ("localhost.evil.example.org", False),
        ("127.0.0.1.evil.example.org", False),
        ("127.0.0.2", False),
        ("[::1]", False),
        ("[::ffff:127.0.0.1]", False),
        ("2130706433", False),
        ("0x7f000001", False),
        ("localhost@evil.example.org", False),
        ("evil.example.org#localhost", False),
        ("", False),
        (":8000", False),
    ],
)
async def test_hosts(named: House, host: str, is_served: bool) -> None:
    """Only the names that are configured, `localhost` and the address connected to are served; anything else is 421."""
    for path in ("/healthz", "/conversations", "/nowhere"):
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        answer = await speak(named.client.address, request.encode())
        if is_served:
            assert answer.status in {200, 401, 404}
        else:
            assert answer.status in {400, 421}
            assert answer.json["code"] in {"host_not_allowed", "bad_request"}
            assert not host or host.encode() not in answer.body


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_request_that_names_no_host(client: Client, version: str) -> None:
    """Without a Host header the address connected to is meant: there is no name that could have been forged."""
    answer = await speak(client.address, f"GET /healthz HTTP/{version}\r\nConnection: close\r\n\r\n".encode())
    assert answer.status in {200, 400}
    assert answer.json is not None


async def test_an_address_in_the_request_line_counts_as_the_host(client: Client) -> None:
    """`GET http://evil/` is as foreign as its address, whatever the Host beside it says."""
    request = "GET http://evil.example.org/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await speak(client.address, request.encode())
    assert (answer.status, answer.json["code"]) == (421, "host_not_allowed")


# ----------------------------------------------------------------------------------------------------------- budget


async def test_sixty_asks_at_once_reach_upstream_fifty_times(
    house: House, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """Sixty asks at once reach upstream exactly 50 times, the token's check counted, and an hour later 50 more."""
    answers = await asyncio.gather(*(ask(house.client, f"Number {number}?") for number in range(60)))
    assert Counter(answer.status for answer in answers) == {201: 49, 500: 11}
    assert chatgpt.received() == 50
    clock.move(seconds=3599)
    assert (await ask(house.client)).status == 500
    clock.move(seconds=2)
    answers = await asyncio.gather(*(ask(house.client, f"Number {number}?") for number in range(60)))
    assert Counter(answer.status for answer in answers) == {201: 50, 500: 10}
    assert chatgpt.received() == 100


@pytest.fixture
async def poor(tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock) -> Any:
    """A house whose accounts have three requests an hour."""
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="3") as house:
        yield house


async def test_a_spent_budget_is_refused_as_documented(poor: House, clock: ManualClock) -> None:
    """The refusal is the documented one, and says when to come back."""
    await ask(poor.client)
    clock.move(seconds=60)
    await ask(poor.client)
    refused = await ask(poor.client)
    assert (refused.status, refused.json) == (500, {"error": "Rate limit exceeded", "code": "rate_limit_exceeded"})
    assert refused.headers["Retry-After"] == "3540"
    assert refused.headers["RateLimit-Policy"] == '"hour";q=3;w=3600'
    assert refused.headers["RateLimit"] == '"hour";r=0;t=3540'


async def test_the_standard_s_status_by_configuration(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """`exceeded_status = 429` changes the status and nothing else."""
    async with open_house(
        tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="1", rate_limit__exceeded_status="429"
    ) as house:
        await house.client.get("/conversations")
        refused = await ask(house.client)
    assert (refused.status, refused.json) == (429, {"error": "Rate limit exceeded", "code": "rate_limit_exceeded"})
    assert refused.headers["Retry-After"] == "3600"


async def test_an_answer_tells_what_is_left(poor: House) -> None:
    """What needed upstream carries the RateLimit fields; what did not, does not."""
    answer = await ask(poor.client)
    assert answer.headers["RateLimit"] == '"hour";r=1;t=3600'
    assert "RateLimit" not in (await poor.client.get("/conversations")).headers


async def test_reading_needs_no_budget(poor: House, chatgpt: SimulatedChatGPT, groceries: SimConversation) -> None:
    """With the budget spent everything that is here still reads 200; what is not here is refused like an ask."""
    answer = (await ask(poor.client)).json["response"]
    await ask(poor.client)
    for path in ("/conversations", "/budget", f"/conversations/{answer['conversation_id']}/messages"):
        assert (await poor.client.get(path)).status == 200
    refused = await poor.client.get(f"/conversations/{groceries.id}/messages")
    assert (refused.status, refused.json["error"]) == (500, "Rate limit exceeded")
    assert refused.headers["Retry-After"] == "3600"
    assert chatgpt.received() == 3


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", NEW),
        ("POST", "/conversations/c0ffee/ask"),
        ("PATCH", "/conversations/c0ffee"),
        ("DELETE", "/conversations/c0ffee"),
        ("DELETE", "/conversations/all"),
    ],
)
async def test_with_nothing_left_no_work_is_done(
    poor: House, chatgpt: SimulatedChatGPT, method: str, path: str
) -> None:
    """What needs upstream is turned away before its body is read."""
    for _ in range(2):
        await ask(poor.client)
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {poor.client.authorization}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    )
    async with asyncio.timeout(5):
        refused = await speak(poor.client.address, head.encode())
    assert (refused.status, refused.json["code"]) == (500, "rate_limit_exceeded")
    assert chatgpt.received() == 3


async def test_budgets_of_two_accounts_are_apart(poor: House, chatgpt: SimulatedChatGPT) -> None:
    """What one account spent another one still has."""
    for _ in range(3):
        await ask(poor.client)
    assert (await ask(poor.client)).status == 500
    assert (await ask(poor.client_of(chatgpt.bob))).status == 201


async def test_tokens_of_one_account_share_its_budget(poor: House, chatgpt: SimulatedChatGPT) -> None:
    """A second access token does not bring a second budget."""
    for _ in range(3):
        await ask(poor.client_of(chatgpt.alice))
    assert chatgpt.received() == 3


async def test_the_budget_s_numbers(poor: House, clock: ManualClock) -> None:
    """`GET /budget` tells capacity, rest, and when tokens come back."""
    await ask(poor.client)
    clock.move(seconds=60)
    await ask(poor.client)
    assert (await poor.client.get("/budget")).json == {
        "capacity": 3,
        "remaining": 0,
        "used": 3,
        "resets_at": iso(NOON + 3_600_000_000),
        "full_at": iso(NOON + 3_660_000_000),
        "window_seconds": 3600,
        "blocked_until": None,
    }
    clock.move(seconds=3601)
    full = (await poor.client.get("/budget")).json
    assert (full["remaining"], full["used"], full["resets_at"], full["full_at"]) == (3, 0, None, None)


@pytest.mark.parametrize("status", [429, 400])
@pytest.mark.parametrize("seconds", [None, 120])
async def test_upstream_s_hourly_limit_holds_everything_back(
    client: Client, chatgpt: SimulatedChatGPT, clock: ManualClock, status: int, seconds: int | None
) -> None:
    """Told by status or by text alone, with its own time or an hour: until then nothing of the account leaves."""
    await client.get("/conversations")
    groceries = chatgpt.alice.add_conversation("Groceries", [("What do I need?", "Milk.")])
    chatgpt.limit(after=0, status=status, retry_after_seconds=seconds)
    refused = await ask(client)
    wait = seconds or 3600
    assert (refused.status, refused.json["code"]) == (500, "upstream_rate_limit")
    assert refused.json["error"] == {"detail": "Too many requests in 1 hour. Try again later."}
    assert refused.headers["Retry-After"] == str(wait)
    chatgpt.clear_faults()
    chatgpt.requests.clear()
    clock.move(seconds=wait - 1)
    for answer in (
        await ask(client),
        await ask(client, model="gpt-4o"),
        await client.get(f"/conversations/{groceries.id}"),
        await client.delete(f"/conversations/{groceries.id}"),
    ):
        assert (answer.status, answer.json, answer.headers["Retry-After"]) == (500, refused.json, "1")
    assert (await client.get("/budget")).json["blocked_until"] == iso(clock.now() + 1_000_000)
    assert (await client.get("/conversations")).status == 200
    assert chatgpt.received() == 0
    clock.move(seconds=1)
    assert (await ask(client)).status == 201


@pytest.mark.parametrize("model", ["gpt-4o", None], ids=["named", "default"])
async def test_a_cap_of_one_model_holds_that_model_back(
    client: Client, chatgpt: SimulatedChatGPT, clock: ManualClock, model: str | None
) -> None:
    """Asks to a capped model wait as long as upstream says; other models, and everything else, do not."""
    groceries = chatgpt.alice.add_conversation("Groceries", [("What do I need?", "Milk.")])
    chatgpt.fault("conversation", times=1, error="model_cap")
    capped = await ask(client, model=model)
    assert (capped.status, capped.json["code"], capped.headers["Retry-After"]) == (500, "model_cap_exceeded", "252")
    seen = chatgpt.received()
    clock.move(seconds=251)
    again = await ask(client, model=model)
    assert (again.status, again.json["code"], again.headers["Retry-After"]) == (500, "model_cap_exceeded", "1")
    assert chatgpt.received() == seen
    assert (await ask(client, model="gpt-5")).status == 201
    assert (await client.get(f"/conversations/{groceries.id}")).status == 200
    clock.move(seconds=1)
    assert (await ask(client, model=model)).status == 201


# --------------------------------------------------------------------------------------------------- upstream is away


async def test_reading_goes_on_with_upstream_gone(
    tmp_path: Path, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """With upstream switched off everything here reads 200, and what needs it is 503 with a clear error."""
    groceries = chatgpt.alice.add_conversation("Groceries", [("What do I need?", "Milk.")])
    elsewhere = chatgpt.alice.add_conversation("Elsewhere", [("Hello?", "Hi.")])
    async with chatgpt.serving() as base_url, open_house(tmp_path, chatgpt, base_url, clock) as house:
        answer = (await ask(house.client)).json["response"]
        before = await house.client.get(f"/conversations/{groceries.id}/messages")
        token = house.client.authorization
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        client = house.client.as_(token)
        assert (await client.get(f"/conversations/{groceries.id}/messages")).body == before.body
        assert len((await client.get("/conversations")).json) == 3
        said = await client.get(f"/conversations/{answer['conversation_id']}/messages")
        assert said.json[-1]["message"] == answer_to("Hello?")
        for refused in (
            await ask(client),
            await client.post(f"/conversations/{groceries.id}/ask", json={"prompt": "More?"}),
            await client.get(f"/conversations/{elsewhere.id}"),
        ):
            assert (refused.status, refused.json["code"]) == (503, "upstream_away")
            assert "no connection to upstream" in refused.json["error"]
        assert (await client.get(f"/conversations/{groceries.id}/messages")).body == before.body
        assert len((await client.get("/conversations")).json) == 3


async def test_health_needs_no_account(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """`/healthz` and `/readyz` answer without a credential and without upstream."""
    stranger = client.as_(None)
    assert ((await stranger.get("/healthz")).json, (await stranger.get("/readyz")).json) == (
        {"status": "ok"},
        {"status": "ready"},
    )
    assert chatgpt.received() == 0
