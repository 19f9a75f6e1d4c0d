# SPDX-License-Identifier: GPL-2.0-or-later
"""`/v1/models`, and which models can be asked: upstream's own list, read seldom."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Answered, Client, House, ManualClock, open_house

NAMES: Final = ["gpt-5", "gpt-5-thinking", "gpt-4o", "text-davinci-002-render-sha"]
MINUTE: Final = 60
HOUR: Final = 3_600
DAY: Final = 86_400


def asked(chatgpt: SimulatedChatGPT) -> int:
    """How often upstream was asked for its models."""
    return chatgpt.received("GET", "models")


def offering(chatgpt: SimulatedChatGPT, *names: str) -> None:
    """From now on upstream offers these alone."""
    chatgpt.clear_faults()
    chatgpt.fault("models", body=json.dumps({"models": [{"slug": name} for name in names]}))


async def ask(client: Client, model: str) -> Answered:
    """Ask this model in a new conversation."""
    return await client.post("/conversations/new", json={"prompt": "Hello?", "model": model})


def names_of(answer: Answered) -> list[str]:
    """The models in a list, in its order."""
    return [model["id"] for model in answer.json["data"]]


# ---------------------------------------------------------------------------------------------------------- the list


async def test_the_list_is_upstreams(client: Client, clock: ManualClock) -> None:
    """Each of its models is there, in its order and in OpenAI's shape, with the time at which upstream said so."""
    listed = await client.get("/v1/models")
    assert (listed.status, listed.json["object"]) == (200, "list")
    assert names_of(listed) == NAMES
    assert listed.json["data"][0] == {
        "id": "gpt-5",
        "object": "model",
        "created": clock.now() // 1_000_000,
        "owned_by": "upstream",
    }


async def test_one_model_can_be_looked_up(client: Client) -> None:
    """By the name that the list has it under."""
    found = await client.get("/v1/models/gpt-4o")
    assert (found.status, found.json["id"], found.json["object"]) == (200, "gpt-4o", "model")


async def test_a_name_with_a_slash_is_one_name(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Some servers name models after who made them; clients encode the slash."""
    offering(chatgpt, "maker/model:7b")
    assert (await client.get("/v1/models/maker%2Fmodel:7b")).json["id"] == "maker/model:7b"


async def test_a_model_that_is_not_there_is_not_found(client: Client) -> None:
    """404 in OpenAI's shape, which names what there is and not what was asked for."""
    missing = await client.get("/v1/models/gpt-9000")
    assert missing.status == 404
    assert missing.json["error"]["code"] == "model_not_found"
    assert missing.json["error"]["message"].endswith(", ".join(NAMES))
    assert b"gpt-9000" not in missing.body


async def test_the_list_is_read_once_a_day(client: Client, chatgpt: SimulatedChatGPT, clock: ManualClock) -> None:
    """Within a day it is answered from the mirror, and after it upstream is asked again."""
    await client.get("/v1/models")
    clock.move(seconds=DAY - 1)
    await client.get("/v1/models")
    assert asked(chatgpt) == 1
    clock.move(seconds=1)
    await client.get("/v1/models")
    assert asked(chatgpt) == 2


async def test_the_list_outlives_the_process(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """A server that starts anew has it still."""
    for _ in range(2):
        async with open_house(tmp_path, chatgpt, base_url, clock) as house:
            assert names_of(await house.client.get("/v1/models")) == NAMES
    assert asked(chatgpt) == 1


async def test_many_readers_share_one_request(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """However many ask at once, upstream is asked once."""
    await client.get("/budget")
    listed = await asyncio.gather(*(client.get("/v1/models") for _ in range(20)))
    assert {answer.status for answer in listed} == {200}
    assert asked(chatgpt) == 1


async def test_each_account_has_a_list_of_its_own(house: House, chatgpt: SimulatedChatGPT) -> None:
    """What one account may ask says nothing of another."""
    offering(chatgpt, "alices")
    assert names_of(await house.client.get("/v1/models")) == ["alices"]
    offering(chatgpt, "bobs")
    assert names_of(await house.client_of(chatgpt.bob).get("/v1/models")) == ["bobs"]


async def test_an_old_list_is_better_than_none(client: Client, chatgpt: SimulatedChatGPT, clock: ManualClock) -> None:
    """Where upstream fails, the list is served as old as it is."""
    await client.get("/v1/models")
    clock.move(seconds=2 * DAY)
    chatgpt.fault("models", error="server_error")
    assert names_of(await client.get("/v1/models")) == NAMES
    assert asked(chatgpt) == 2


async def test_an_old_list_is_served_with_the_budget_spent(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Looking at the models costs nothing that is not there."""
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="2") as house:
        await house.client.get("/v1/models")
        clock.move(seconds=2 * DAY)
        for _ in range(2):
            await house.client.post("/conversations/new", json={"prompt": "Hello?"})
        assert names_of(await house.client.get("/v1/models")) == NAMES
    assert asked(chatgpt) == 1


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"error": "server_error"}, 502, "upstream_broken"),
        ({"error": "html_403"}, 502, "upstream_refuses_programs"),
        ({"error": "hourly_limit"}, 429, "upstream_rate_limit"),
        ({"body": "[]"}, 502, "upstream_broken"),
        ({"body": '{"models": {}}'}, 502, "upstream_broken"),
    ],
    ids=["a failure", "the bot check", "a limit", "an array", "no list"],
)
async def test_with_no_list_at_all_the_error_says_so(
    client: Client, chatgpt: SimulatedChatGPT, fault: dict[str, Any], status: int, code: str
) -> None:
    """A list that was never read cannot be served, and upstream's reason is told."""
    chatgpt.fault("models", **fault)
    failed = await client.get("/v1/models")
    assert (failed.status, failed.json["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("error", "seconds"), [("server_error", 10 * MINUTE), ("not_found", HOUR)], ids=["a failure", "no such list"]
)
async def test_a_failure_is_not_paid_for_each_time(
    client: Client, chatgpt: SimulatedChatGPT, clock: ManualClock, error: str, seconds: int
) -> None:
    """Clients that look at the list all the time do not spend the budget on an upstream that cannot give it."""
    chatgpt.fault("models", error=error)
    first = await client.get("/v1/models")
    clock.move(seconds=seconds - 1)
    again = await client.get("/v1/models")
    assert (again.status, again.json["error"]["code"]) == (first.status, first.json["error"]["code"])
    assert asked(chatgpt) == 1
    chatgpt.clear_faults()
    clock.move(seconds=1)
    assert names_of(await client.get("/v1/models")) == NAMES


# ---------------------------------------------------------------------------------------------------------- checking


async def test_a_model_that_upstream_lacks_is_refused(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """400 before anything is asked, and the text says which models there are."""
    refused = await ask(client, "gpt-9000")
    assert (refused.status, refused.json["code"]) == (400, "model_not_found")
    assert all(name in refused.json["error"] for name in NAMES)
    assert chatgpt.received("POST", "conversation") == 0


async def test_a_refused_model_leaves_nothing_behind(client: Client) -> None:
    """No conversation was begun."""
    await ask(client, "gpt-9000")
    assert (await client.get("/conversations")).json == []


async def test_known_models_are_asked_without_looking_again(
    client: Client, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """What was in the list once is believed, however old it is."""
    assert (await ask(client, "gpt-4o")).status == 201
    clock.move(seconds=5 * DAY)
    assert (await ask(client, "gpt-5")).status == 201
    assert asked(chatgpt) == 1


@pytest.mark.parametrize("name", ["auto", "the-configured-one"])
async def test_the_default_needs_no_list(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, name: str
) -> None:
    """Neither the configured model nor ChatGPT's own choice is looked up."""
    async with open_house(tmp_path, chatgpt, base_url, clock, upstream__model="the-configured-one") as house:
        assert (await ask(house.client, name)).status == 201
    assert asked(chatgpt) == 0


async def test_a_model_that_is_new_upstream_is_found(
    client: Client, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """A list older than an hour is read again before a model is refused; a younger one is not."""
    await client.get("/v1/models")
    offering(chatgpt, "gpt-6")
    clock.move(seconds=HOUR - 1)
    assert (await ask(client, "gpt-6")).status == 400
    clock.move(seconds=1)
    assert (await ask(client, "gpt-6")).status == 201
    assert asked(chatgpt) == 2


async def test_what_nobody_can_tell_is_left_to_upstream(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """With a list that cannot be read, the ask goes through."""
    chatgpt.fault("models", error="server_error")
    assert (await ask(client, "gpt-9000")).status == 201
    assert (await ask(client, "gpt-9001")).status == 201
    assert asked(chatgpt) == 1


async def test_an_empty_list_refuses_nothing(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A server that lists no models answers all the same."""
    offering(chatgpt)
    assert (await ask(client, "gpt-9000")).status == 201


async def test_the_last_token_is_for_the_ask(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """With one left, the model's name is not checked at that price."""
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="2") as house:
        await house.client.get("/conversations")
        assert (await ask(house.client, "gpt-9000")).status == 201
    assert asked(chatgpt) == 0


async def test_a_long_list_is_not_told_whole(house: House, chatgpt: SimulatedChatGPT) -> None:
    """The text of the error names thirty, and how many more there are."""
    offering(chatgpt, *(f"model-{number}" for number in range(100)))
    refused = await ask(house.client, "gpt-9000")
    assert refused.json["error"].endswith("model-29 and 70 more")
