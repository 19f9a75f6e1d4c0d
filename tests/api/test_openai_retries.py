# SPDX-License-Identifier: GPL-2.0-or-later
"""A request to `/v1` that is sent again: by a client of its own accord, by one with a key, by a person."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from chatgpt_rest.upstream.simulated import SimulatedChatGPT, answer_to
from tests.chat import PATH, asks, assistant, chunks, complete, content, text_of, user
from tests.house import Answered, Client, ManualClock, open_house

RETRIED: Final = {"X-Stainless-Retry-Count": "1"}
MINUTE: Final = 60


async def test_an_automatic_retry_asks_nothing_again(
    client: Client, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """What a client sends once more of its own accord gets the answer that was paid for."""
    told = [user("Who are you?"), assistant("A parrot."), user("Since when?")]
    first = await complete(client, *told)
    clock.move(seconds=14 * MINUTE)
    again = await complete(client, *told, headers=RETRIED)
    assert again.json == first.json
    assert len(asks(chatgpt)) == 1


async def test_an_automatic_retry_joins_the_ask_under_way(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """It reads the same answer, from its beginning."""
    fault = chatgpt.fault("conversation", hold_after_events=2)
    body = {"messages": [user("Hello?")], "stream": True}
    headers = {"Authorization": client.authorization or ""}
    async with (
        client.session.post(client.address + PATH, json=body, headers=headers) as first,
        client.session.post(client.address + PATH, json=body, headers={**headers, **RETRIED}) as again,
    ):
        fault.release()
        answers = [Answered(200, {}, await each.read(), None) for each in (first, again)]
    assert [text_of(chunks(each)) for each in answers] == [answer_to("Hello?")] * 2
    assert len(asks(chatgpt)) == 1


async def test_an_automatic_retry_of_what_was_refused_is_asked(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Nothing was asked the first time."""
    chatgpt.fault("conversation", error="forbidden", times=1)
    assert (await complete(client, user("Hello?"))).status == 502
    assert content(await complete(client, user("Hello?"), headers=RETRIED)) == answer_to("Hello?")


async def test_an_automatic_retry_of_what_is_uncertain_stays_so(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Nobody knows whether it was asked, and it is not asked twice."""
    chatgpt.fault("conversation", reset=True, times=1)
    uncertain = [await complete(client, user("Hello?")), await complete(client, user("Hello?"), headers=RETRIED)]
    assert [each.json["error"]["code"] for each in uncertain] == ["ask_uncertain"] * 2
    assert len(asks(chatgpt)) == 1


async def test_an_old_request_is_not_what_a_retry_means(
    client: Client, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """After a quarter of an hour the client that sent it has long given it up."""
    await complete(client, user("Hello?"))
    clock.move(seconds=15 * MINUTE)
    await complete(client, user("Hello?"), headers=RETRIED)
    assert len(asks(chatgpt)) == 2


@pytest.mark.parametrize("count", ["0", "00", "-1", "x", "²"])
async def test_who_asks_again_is_answered_again(client: Client, chatgpt: SimulatedChatGPT, count: str) -> None:
    """The same words sent twice on purpose are two asks."""
    for _ in range(2):
        await complete(client, user("Hello?"), headers={"X-Stainless-Retry-Count": count})
    assert len(asks(chatgpt)) == 2


async def test_another_request_is_no_retry(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Neither another history nor another model."""
    await complete(client, user("Hello?"), model="gpt-5")
    await complete(client, user("Hello?"), model="gpt-4o", headers=RETRIED)
    await complete(client, user("Hi."), user("Hello?"), model="gpt-5", headers=RETRIED)
    assert len(asks(chatgpt)) == 3


async def test_a_retry_is_answered_with_the_budget_spent(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Its answer is here, and costs nothing."""
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="2") as house:
        first = await complete(house.client, user("Hello?"))
        assert (await complete(house.client, user("Hello?"))).status == 429
        again = await complete(house.client, user("Hello?"), headers=RETRIED)
    assert again.json == first.json


async def test_a_retry_finds_its_answer_after_a_restart(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """What was asked before the server ended is not asked again by the client that lost its connection."""
    answers = []
    for headers in ({}, RETRIED):
        async with open_house(tmp_path, chatgpt, base_url, clock) as house:
            answers.append(await complete(house.client, user("Hello?"), headers=headers))
    assert answers[0].json == answers[1].json
    assert len(asks(chatgpt)) == 1


async def test_an_idempotency_key_works_here_too(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Although the history that was new the first time is known the second time."""
    told = [user("Who are you?"), assistant("A parrot."), user("Since when?")]
    answers = [await complete(client, *told, headers={"Idempotency-Key": "same"}) for _ in range(2)]
    assert answers[0].json == answers[1].json
    assert len(asks(chatgpt)) == 1


async def test_an_idempotency_key_belongs_to_its_request(client: Client) -> None:
    """Another request under it is 409, in OpenAI's shape and not to be retried."""
    await complete(client, user("Hello?"), headers={"Idempotency-Key": "same"})
    other = await complete(client, user("Hi?"), headers={"Idempotency-Key": "same"})
    assert (other.status, other.json["error"]["code"]) == (409, "idempotency_key_reused")
    assert other.headers["x-should-retry"] == "false"
