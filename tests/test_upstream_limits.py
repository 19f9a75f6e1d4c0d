# SPDX-License-Identifier: GPL-2.0-or-later
"""While upstream's own limit holds: in whose words the account's requests are refused, and for how long."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatgpt_rest.errors import BudgetSpent, UpstreamError, UpstreamLimit
from chatgpt_rest.gate import AccountGate
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Answered, Client, House, ManualClock, open_house

SAID = {"detail": {"message": "Not so fast, Alice.", "code": "too_fast"}}


async def ask(client: Client) -> Answered:
    """Ask in a new conversation."""
    return await client.post("/conversations/new", json={"prompt": "Hello?"})


@pytest.fixture
async def limited(house: House, chatgpt: SimulatedChatGPT) -> House:
    """A house whose Alice has met upstream's limit, in words of its own, for half an hour."""
    await house.client.get("/conversations")
    chatgpt.fault("conversation", status=429, body=SAID, headers={"Retry-After": "1800"})
    assert (await ask(house.client)).status == 500
    chatgpt.clear_faults()
    chatgpt.requests.clear()
    return house


def refusal(answer: Answered) -> tuple[object, ...]:
    """What a refusal says."""
    return answer.status, answer.json["code"], answer.json["error"], answer.headers["Retry-After"]


async def test_later_refusals_are_in_upstreams_words(limited: House, chatgpt: SimulatedChatGPT) -> None:
    """They carry the words, the code and what is left of the time; and asking for them does not prolong it."""
    seen = []
    for _ in range(3):
        limited.clock.move(seconds=60)
        seen += [refusal(await ask(limited.client)) for _ in range(2)]
    expected = [(500, "upstream_rate_limit", SAID, wait) for wait in ("1740", "1680", "1620")]
    assert seen == [each for each in expected for _ in range(2)]
    assert chatgpt.received() == 0


async def test_the_words_outlive_the_process(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """After a restart the limit still holds, and is still upstream's."""
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await house.client.get("/conversations")
        chatgpt.fault("conversation", status=429, body=SAID, headers={"Retry-After": "1800"})
        await ask(house.client)
        token = house.client.authorization
    clock.move(seconds=60)
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        assert refusal(await ask(house.client.as_(token))) == (500, "upstream_rate_limit", SAID, "1740")


async def test_another_account_is_not_refused(limited: House, chatgpt: SimulatedChatGPT) -> None:
    """The limit is of one account."""
    assert (await ask(limited.client_of(chatgpt.bob))).status == 201


async def test_our_own_limit_speaks_our_own_words_again(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Once upstream's limit is over, a spent budget is told as such."""
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="2") as house:
        await house.client.get("/conversations")
        chatgpt.fault("conversation", status=429, body=SAID, headers={"Retry-After": "60"})
        await ask(house.client)
        clock.move(seconds=61)
        assert refusal(await ask(house.client)) == (500, "rate_limit_exceeded", "Rate limit exceeded", "3539")


@pytest.fixture
async def gate(house: House, chatgpt: SimulatedChatGPT) -> AccountGate:
    """The gate of Alice's requests."""
    await house.client.get("/conversations")

    async def forget_token(error: UpstreamError) -> None:
        raise AssertionError(f"a limit says nothing of the token: {error}")

    return AccountGate(house.mirror.requests, chatgpt.alice.user_id, forget_token=forget_token)


@pytest.mark.parametrize("body", [None, float("nan")], ids=["no JSON", "no JSON that could be given back"])
async def test_a_limit_in_no_words_holds_as_well(gate: AccountGate, body: object) -> None:
    """What upstream said may be a page, or hold a number that JSON does not know: then the words are ours."""
    await gate.refused(UpstreamLimit("so it is", retry_after_seconds=60, body=body))
    with pytest.raises(BudgetSpent) as caught:
        await gate.take("GET", "conversations")
    error = caught.value
    assert (error.code, error.body, error.text) == ("upstream_rate_limit", None, "Rate limit exceeded")
    assert error.retry_after_seconds == 60
