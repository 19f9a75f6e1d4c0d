# SPDX-License-Identifier: GPL-2.0-or-later
"""The first check of an access token, how long it opens the mirror, and what ends that."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from chatgpt_rest.clock import DAY, MINUTE, SECOND
from chatgpt_rest.errors import UpstreamRefusedToken
from chatgpt_rest.mirror import Mirror
from chatgpt_rest.model import Secret
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Answered, Client, House, ManualClock, open_house
from tests.rows import rows
from tests.tokens import AUTH, PROFILE, edited, encoded

EMPTY_PAGE = {"items": [], "total": 0, "limit": 100, "offset": 0, "has_missing_conversations": False}
AWAY = "http://127.0.0.1:9/backend-api/"


async def spend(mirror: Mirror, account: str, number: int) -> None:
    """Take so many of an account's tokens."""
    for _ in range(number):
        request = await mirror.requests.take(account, "GET", "conversations")
        await request.arrived(200)


def secret_of_alice(chatgpt: SimulatedChatGPT) -> Secret:
    """A new token of Alice's, as the owner of the server gives one."""
    return Secret(chatgpt.alice.token())


# ------------------------------------------------------------------------------------------------ the first check


async def test_the_first_check_is_one_request_and_counts(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A new token costs one request upstream, and that is one of its account's 50."""
    budget = await client.get("/budget")
    assert (budget.status, budget.json["used"], budget.json["remaining"]) == (200, 1, 49)
    assert [(each.method, each.endpoint, each.account) for each in chatgpt.requests] == [
        ("GET", "conversations", chatgpt.alice.user_id)
    ]


async def test_what_the_first_check_brought_is_the_list(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The check reads the first page of the list, and nobody has to ask for that again."""
    chatgpt.alice.many(3)
    listed = await client.get("/conversations")
    assert len(listed.json) == 3
    assert chatgpt.received() == 1


@pytest.mark.parametrize("scheme", ["", "Bearer ", "bearer ", "BEARER   "], ids=["bare", "Bearer", "lower", "upper"])
async def test_a_token_is_the_same_in_every_dress(client: Client, chatgpt: SimulatedChatGPT, scheme: str) -> None:
    """With `Bearer` or without, it is one token and one check."""
    token = chatgpt.alice.token()
    answers = [await client.as_(dress + token).get("/conversations") for dress in ("", scheme)]
    assert [answer.status for answer in answers] == [200, 200]
    assert chatgpt.received() == 1


@pytest.mark.parametrize("authorization", [None, "", "   "], ids=["none", "empty", "blank"])
async def test_a_missing_token_is_told_as_documented(
    client: Client, chatgpt: SimulatedChatGPT, authorization: str | None
) -> None:
    """Without a credential the answer is the seed's 401, and nothing goes upstream."""
    answer = await client.as_(authorization).get("/conversations")
    assert answer.status == 401
    assert answer.json == {"error": "access_token is required", "code": "access_token_required"}
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert chatgpt.received() == 0


@pytest.mark.parametrize(
    "authorization",
    ["Bearer", "bearer ", "Bearer Bearer", "Basic dXNlcjpwYXNz", "two words", "Bearer two words", "tok\u00e9n", "a\tb"],
)
async def test_a_malformed_token_goes_nowhere(client: Client, chatgpt: SimulatedChatGPT, authorization: str) -> None:
    """What cannot be a token is refused here and never sent upstream."""
    answer = await client.as_(authorization).get("/conversations")
    assert (answer.status, answer.json["code"]) == (401, "access_token_invalid")
    assert chatgpt.received() == 0


async def test_fifty_requests_at_once_are_one_check(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """However many requests bring a new token at once, upstream is asked once."""
    held = chatgpt.fault("conversations", hold=True)
    requests = [asyncio.create_task(client.get("/conversations")) for _ in range(50)]
    await held.until_held()
    held.release()
    answers = await asyncio.gather(*requests)
    assert {answer.status for answer in answers} == {200}
    assert chatgpt.received() == 1


async def test_who_hangs_up_takes_the_check_from_nobody(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The client that began a check may leave; those who wait for the same check get its answer."""
    held = chatgpt.fault("conversations", hold=True)
    first = asyncio.create_task(client.get("/conversations"))
    await held.until_held()
    second = asyncio.create_task(client.get("/budget"))
    first.cancel()
    await asyncio.wait((first,))
    held.release()
    assert (await second).status == 200
    assert chatgpt.received() == 1


async def test_a_check_that_nobody_waits_for_fails_in_silence(
    house: House, chatgpt: SimulatedChatGPT, caplog: pytest.LogCaptureFixture
) -> None:
    """A refusal that comes after everybody hung up is no error of this program."""
    held = chatgpt.fault("conversations", hold=True, error="bad_token")
    waiting = asyncio.create_task(house.auth.principal("a-token-that-is-no-jwt"))
    await held.until_held()
    (check,) = house.auth._checks.values()
    waiting.cancel()
    held.release()
    await asyncio.wait((waiting, check))
    del waiting, check
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert house.auth._checks == {}


async def test_closing_ends_the_checks_under_way(tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str) -> None:
    """The server does not wait for an upstream that keeps it waiting for a stranger."""
    held = chatgpt.fault("conversations", hold=True)
    async with open_house(tmp_path, chatgpt, base_url, ManualClock()) as house:
        waiting = asyncio.create_task(house.auth.principal(chatgpt.alice.token()))
        await held.until_held()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_account_whose_tokens_are_spent_checks_nothing_new(house: House, chatgpt: SimulatedChatGPT) -> None:
    """A second token of an account whose 50 are gone gets 503 until the hour is over, and nothing leaves."""
    await house.client.get("/budget")
    await spend(house.mirror, chatgpt.alice.user_id, 49)
    second = house.client.as_(chatgpt.alice.token())
    refused = await second.get("/conversations")
    assert (refused.status, refused.json["code"]) == (503, "token_check_unavailable")
    assert 3590 <= int(refused.headers["Retry-After"]) <= 3600
    assert chatgpt.received() == 1
    house.clock.move(seconds=3601)
    assert (await second.get("/conversations")).status == 200


async def test_the_first_token_goes_on_reading_when_all_is_spent(house: House, chatgpt: SimulatedChatGPT) -> None:
    """A token that was accepted once needs no budget to read."""
    await house.client.get("/budget")
    await spend(house.mirror, chatgpt.alice.user_id, 49)
    assert (await house.client.get("/conversations")).status == 200


async def test_claims_count_only_after_acceptance(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Nothing that a refused token says of itself is written down as true."""
    claims: dict[str, Any] = {AUTH: {"user_id": "user-nobody"}, PROFILE: {"email": "mallory@example.org"}}
    await house.client.as_(edited(chatgpt.alice.token(), claims)).get("/conversations")
    assert await house.mirror.accounts.all() == []
    assert rows(house, "select account from upstream_request") == [("",)]


async def test_an_accepted_token_tells_the_address(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Once upstream accepted the token, the owner sees whose account it is."""
    await house.client.get("/budget")
    (account,) = await house.mirror.accounts.all()
    assert (account.id, account.email) == (chatgpt.alice.user_id, "alice@example.org")


async def test_checks_have_a_small_budget_of_their_own(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Strangers' tokens of any number are checked so many times an hour, and then answered 503."""
    async with open_house(tmp_path, chatgpt, base_url, clock, auth__checks_per_hour="3") as house:
        answers = [await house.client.as_(f"stranger-{number}").get("/conversations") for number in range(5)]
        assert [answer.status for answer in answers] == [401, 401, 401, 503, 503]
        assert chatgpt.received() == 3
        clock.move(seconds=3601)
        assert (await house.client.get("/conversations")).status == 200


async def test_strangers_cannot_lock_the_owner_out(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """A token that the owner of the server gives is proved even when strangers spent the budget of checks."""
    async with open_house(tmp_path, chatgpt, base_url, clock, auth__checks_per_hour="1") as house:
        await house.client.as_("stranger").get("/conversations")
        assert (await house.client.get("/conversations")).status == 503
        assert await house.auth.adopt(secret_of_alice(chatgpt)) == chatgpt.alice.user_id


# ------------------------------------------------------------------------------------------- refused, or not known


async def test_a_refusal_is_remembered_for_ten_minutes(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Upstream's 401 is not asked for again before ten minutes are over."""
    stranger = house.client.as_("not-a-token-of-anyone")
    assert (await stranger.get("/conversations")).json["code"] == "access_token_refused"
    house.clock.move(seconds=599)
    again = await stranger.get("/conversations")
    assert (again.status, again.json["code"], chatgpt.received()) == (401, "access_token_refused", 1)
    house.clock.move(seconds=2)
    assert (await stranger.get("/conversations")).status == 401
    assert chatgpt.received() == 2


@pytest.mark.parametrize(
    "knobs",
    [
        {"error": "html_403"},
        {"error": "forbidden"},
        {"error": "unusual_activity"},
        {"error": "hourly_limit"},
        {"error": "not_found"},
        {"error": "invalid"},
        {"error": "server_error"},
        {"error": "bad_gateway"},
        {"error": "unavailable"},
        {"reset": True},
        {"truncate_after_bytes": 5},
        {"status": 204},
        {"status": 302, "headers": {"Location": "/backend-api/conversations"}},
        {"status": 200, "body": "<html>Just a moment</html>", "content_type": "text/html"},
        {"status": 200, "body": "{}"},
        {"status": 200, "body": "[]"},
        {"status": 200, "body": "null"},
        {"status": 200, "body": '{"items": null}'},
        {"status": 200, "body": '{"detail": "Could not parse your authentication token."}'},
    ],
    ids=lambda knobs: "-".join(str(value)[:24] for value in knobs.values()),
)
async def test_what_is_no_answer_is_neither_yes_nor_no(
    client: Client, chatgpt: SimulatedChatGPT, knobs: dict[str, Any]
) -> None:
    """Anything but a list or a 401 is answered 503, opens nothing, and is not remembered."""
    chatgpt.alice.many(1)
    chatgpt.fault("conversations", **knobs)
    refused = await client.get("/conversations")
    assert (refused.status, refused.json["code"]) == (503, "token_check_unavailable")
    chatgpt.clear_faults()
    assert (await client.get("/conversations")).status == 200


async def test_no_upstream_is_neither_yes_nor_no(tmp_path: Path, chatgpt: SimulatedChatGPT, clock: ManualClock) -> None:
    """With upstream away an unknown token gets 503, never data."""
    async with open_house(tmp_path, chatgpt, AWAY, clock) as house:
        refused = await house.client.get("/conversations")
    assert (refused.status, refused.json["code"]) == (503, "token_check_unavailable")


# ----------------------------------------------------------------------------------------------- how long it holds


async def test_a_known_token_reads_with_upstream_gone(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """A token accepted once reads the mirror after a restart, although upstream cannot be reached."""
    chatgpt.alice.many(2)
    token = chatgpt.alice.token()
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await house.client.as_(token).get("/conversations")
    async with open_house(tmp_path, chatgpt, AWAY, clock) as house:
        listed = await house.client.as_(token).get("/conversations")
    assert (listed.status, len(listed.json)) == (200, 2)


async def test_an_expired_token_reads_nothing(house: House, chatgpt: SimulatedChatGPT) -> None:
    """A token ends when its own claims say so, with no request upstream."""
    short = house.client.as_(chatgpt.alice.token(expires_in_seconds=60))
    assert (await short.get("/conversations")).status == 200
    house.clock.move(seconds=59)
    assert (await short.get("/conversations")).status == 200
    house.clock.move(seconds=1)
    expired = await short.get("/conversations")
    assert (expired.status, expired.json["code"]) == (401, "access_token_expired")
    assert chatgpt.received() == 1


async def test_a_token_that_came_expired_is_not_sent_upstream(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """What its own claims call expired needs no check."""
    expired = await client.as_(chatgpt.alice.token(expires_in_seconds=-1)).get("/conversations")
    assert (expired.status, expired.json["code"]) == (401, "access_token_expired")
    assert chatgpt.received() == 0


Act = Callable[[Client, str], Awaitable[Answered]]

ACTS: dict[str, Act] = {
    "read": lambda client, one: client.get(f"/conversations/{one}"),
    "ask": lambda client, one: client.post(f"/conversations/{one}/ask", data={"prompt": "?"}),
    "new": lambda client, _: client.post("/conversations/new", data={"prompt": "?"}),
    "rename": lambda client, one: client.patch(f"/conversations/{one}", data={"title": "T"}),
    "delete": lambda client, one: client.delete(f"/conversations/{one}"),
    "delete all": lambda client, _: client.delete("/conversations/all"),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
async def test_a_later_401_forgets_the_token(house: House, chatgpt: SimulatedChatGPT, act: Act) -> None:
    """Whatever request upstream answers 401: the token opens nothing from then on, without being sent again."""
    (conversation,) = chatgpt.alice.many(1)
    await house.client.get("/conversations")
    chatgpt.fault(error="bad_token")
    refused = await act(house.client, conversation.id)
    assert refused.status == 401
    chatgpt.clear_faults()
    asked = chatgpt.received()
    assert (await house.client.get("/conversations")).status == 401
    assert chatgpt.received() == asked
    assert rows(house, "select * from credential") == []


async def test_a_forgotten_token_stays_forgotten_after_a_restart(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """A restart forgets that it was refused, but not that it has to be proved."""
    token = chatgpt.alice.token()
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await house.client.as_(token).get("/conversations")
        chatgpt.alice.revoke(token)
        assert (await house.client.as_(token).post("/conversations/new", data={"prompt": "?"})).status == 401
    async with open_house(tmp_path, chatgpt, AWAY, clock) as house:
        assert (await house.client.as_(token).get("/conversations")).status == 503


async def test_another_token_of_the_account_is_not_forgotten(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Upstream's 401 is about one token, not about the account."""
    revoked = chatgpt.alice.token()
    await house.client.get("/conversations")
    await house.client.as_(revoked).get("/conversations")
    chatgpt.alice.revoke(revoked)
    assert (await house.client.as_(revoked).post("/conversations/new", data={"prompt": "?"})).status == 401
    assert (await house.client.get("/conversations")).status == 200


async def test_a_later_403_forgets_nothing(house: House, chatgpt: SimulatedChatGPT) -> None:
    """A bot check says nothing of the token: it goes on reading."""
    await house.client.get("/conversations")
    chatgpt.fault("conversation", error="html_403")
    assert (await house.client.post("/conversations/new", data={"prompt": "?"})).status == 502
    assert (await house.client.get("/conversations")).status == 200


async def test_a_read_under_way_does_not_revive_a_forgotten_token(house: House, chatgpt: SimulatedChatGPT) -> None:
    """A credential that was read before it was forgotten, and arrives after, is not remembered as good."""
    token = secret_of_alice(chatgpt)
    account = await house.auth.adopt(token)
    house.auth._known.clear()
    finding = [asyncio.create_task(house.auth.principal(token.reveal())) for _ in range(20)]
    await asyncio.sleep(0)
    await house.auth.forget(account, token, UpstreamRefusedToken("revoked"))
    await asyncio.wait(finding)
    for find in finding:
        find.exception()
    assert house.auth._known == {}


async def test_a_request_overtaken_by_the_check_asks_nothing(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Who looked for a token before it was accepted, and comes to prove it after, finds it proved."""
    token = secret_of_alice(chatgpt)
    account = await house.auth.adopt(token)
    assert (await house.auth._prove(token, is_stranger=True)).account == account
    assert chatgpt.received() == 1


async def test_upstreams_hourly_limit_holds_back_the_account(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Upstream's own limit, met with a proved token, keeps every request of the account here until it clears."""
    await house.client.get("/conversations")
    chatgpt.fault("conversation", error="hourly_limit", headers={"Retry-After": "60"})
    await house.client.post("/conversations/new", data={"prompt": "?"})
    chatgpt.clear_faults()
    assert (await house.client.post("/conversations/new", data={"prompt": "?"})).status == 500
    assert chatgpt.received("POST") == 1
    house.clock.move(seconds=61)
    assert (await house.client.post("/conversations/new", data={"prompt": "?"})).status == 201


async def test_the_cap_of_a_model_holds_back_that_model_only(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Asks to another model go on."""
    await house.client.get("/conversations")
    chatgpt.fault("conversation", error="model_cap", times=1)
    for _ in range(2):
        refused = await house.client.post("/conversations/new", data={"prompt": "?", "model": "gpt-4o"})
        assert (refused.status, refused.json["code"]) == (500, "model_cap_exceeded")
    assert chatgpt.received("POST") == 1
    assert (await house.client.post("/conversations/new", data={"prompt": "?"})).status == 201


async def test_a_cap_of_no_model_in_particular_holds_back_nothing(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Upstream's cap, told to a request that named no model, blocks neither the account nor any model."""
    (conversation,) = chatgpt.alice.many(1)
    await house.client.get("/conversations")
    chatgpt.fault("conversation/*", error="model_cap", times=1)
    assert (await house.client.get(f"/conversations/{conversation.id}")).status == 500
    assert (await house.client.get(f"/conversations/{conversation.id}")).status == 200
    assert rows(house, "select * from model_block") == []


async def test_no_more_is_remembered_than_fits(house: House) -> None:
    """The refusals of a patient stranger do not fill the memory."""
    for number in range(5000):
        house.auth._remember_refusal(number.to_bytes(4))
    assert len(house.auth._refused) == 4096


# ----------------------------------------------------------------------------------------- tokens that are no JWTs


async def test_an_accepted_token_that_is_no_jwt_stands_for_itself(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Two opaque tokens are two accounts, each with a budget of its own, and neither is named after the token."""
    chatgpt.fault("conversations", status=200, body=EMPTY_PAGE)
    for token in ("opaque-1", "opaque-2"):
        budget = await house.client.as_(token).get("/budget")
        assert (budget.status, budget.json["used"]) == (200, 1)
    names = [account.id for account in await house.mirror.accounts.all()]
    assert len(set(names)) == 2
    assert all(name.startswith("token-") and "opaque" not in name for name in names)


async def test_a_token_that_tells_no_expiry_is_checked_anew_after_a_month(
    house: House, chatgpt: SimulatedChatGPT
) -> None:
    """An opaque token opens the mirror for thirty days, and then upstream is asked again."""
    chatgpt.fault("conversations", status=200, body=EMPTY_PAGE)
    opaque = house.client.as_("opaque")
    await opaque.get("/conversations")
    house.clock.move(seconds=30 * DAY / SECOND - 1)
    assert (await opaque.get("/conversations")).status == 200
    assert chatgpt.received() == 1
    house.clock.move(seconds=2)
    assert (await opaque.get("/conversations")).status == 200
    assert chatgpt.received() == 2


ODD_CLAIMS: dict[str, dict[str, Any]] = {
    "no user": {AUTH: {}},
    "user is a list": {AUTH: {"user_id": ["user-1"]}},
    "user is empty": {AUTH: {"user_id": ""}},
    "user is endless": {AUTH: {"user_id": "u" * 201}},
    "user has a line break": {AUTH: {"user_id": "user\n1"}},
    "user is half a character": {AUTH: {"user_id": "\ud800"}},
    "auth is a list": {AUTH: ["user_id"]},
    "email is a number": {PROFILE: {"email": 1}, AUTH: None},
    "expiry is true": {"exp": True, AUTH: None},
    "expiry is text": {"exp": "never", AUTH: None},
    "expiry is beyond all time": {"exp": 1e300, AUTH: None},
    "expiry is negative": {"exp": -1, AUTH: None},
    "expiry is no number": {"exp": float("nan"), AUTH: None},
    "expiry is infinite": {"exp": float("inf"), AUTH: None},
}


@pytest.mark.parametrize("claims", ODD_CLAIMS.values(), ids=ODD_CLAIMS.keys())
async def test_odd_claims_of_an_accepted_token_do_no_harm(
    house: House, chatgpt: SimulatedChatGPT, claims: dict[str, Any]
) -> None:
    """A token whose claims make no sense, and which upstream accepts, stands for itself."""
    chatgpt.fault("conversations", status=200, body=EMPTY_PAGE)
    odd = house.client.as_(edited(chatgpt.alice.token(), claims))
    assert (await odd.get("/conversations")).status == 200
    (account,) = await house.mirror.accounts.all()
    assert account.id.startswith("token-")


async def test_a_token_tells_its_expiry_in_fractions_too(house: House, chatgpt: SimulatedChatGPT) -> None:
    """`exp` may be a float."""
    chatgpt.fault("conversations", status=200, body=EMPTY_PAGE)
    expires_at = house.clock.now() + MINUTE
    token = ".".join([encoded({"alg": "HS256"}), encoded({"exp": expires_at / SECOND + 0.5}), "signature"])
    await house.client.as_(token).get("/conversations")
    assert rows(house, "select expires_at from credential") == [(expires_at + SECOND // 2,)]


async def test_the_answer_to_a_refused_token_is_upstreams_own(client: Client) -> None:
    """Where upstream sent JSON with its 401, the client sees it."""
    refused = await client.as_("nobody").get("/conversations")
    assert json.loads(refused.body)["error"]["detail"].startswith("Could not parse")
