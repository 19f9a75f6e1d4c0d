# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks that fail, and asks that are sent twice: what the client is told, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest.context import FETCHES
from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT, answer_to
from tests.house import Answered, Client, House, ManualClock, open_house

NEW: Final = "/conversations/new"
DAY_SECONDS: Final = 86_400

BROKEN_OFF: Final[dict[str, dict[str, Any]]] = {
    "an error in mid-stream": {"stream": "error_event"},
    "Internal Server Error": {"stream": "internal_server_error_line"},
    "no end": {"stream": "no_done", "after_events": 2},
    "a cut connection": {"truncate_after_bytes": 4000},
    "a reset": {"reset_after_bytes": 4000, "drip_bytes": 500, "drip_pause_seconds": 0.001},
}
SAYS_NOTHING: Final[dict[str, dict[str, Any]]] = {
    "204": {"stream": "204"},
    "empty": {"stream": "empty"},
    "only [DONE]": {"stream": "done_only"},
    "a page": {"stream": "html_200"},
    "JSON": {"stream": "json_200"},
    "delta encoding": {"stream": "delta_encoding"},
    "an error and nothing else": {"stream": "error_event_only"},
    "a failure": {"error": "server_error"},
    "a gateway": {"error": "bad_gateway"},
    "unavailable": {"error": "unavailable"},
    "a reset": {"reset": True},
}
REFUSED: Final[dict[str, tuple[int, str]]] = {
    "bad_token": (401, "access_token_refused"),
    "token_expired": (401, "access_token_refused"),
    "forbidden": (502, "upstream_forbidden"),
    "html_403": (502, "upstream_refuses_programs"),
    "unusual_activity": (502, "upstream_refuses_programs"),
    "not_found": (404, "not_found"),
    "too_large": (400, "upstream_rejected"),
    "invalid": (400, "upstream_rejected"),
    "hourly_limit": (500, "upstream_rate_limit"),
    "model_cap": (500, "model_cap_exceeded"),
}


@pytest.fixture
def groceries(chatgpt: SimulatedChatGPT) -> SimConversation:
    """A conversation that ChatGPT has and the mirror has not."""
    return chatgpt.alice.add_conversation("Groceries", [("What do I need?", "Milk.")])


async def ask(client: Client, path: str, prompt: str = "Hello?", *, key: str | None = None, **fields: Any) -> Answered:
    """Ask in a new conversation, or in that of `path`."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.post(path, json={"prompt": prompt, **fields}, headers=headers)


async def said(client: Client, conversation_id: str) -> list[str]:
    """The texts of a conversation."""
    read = await client.get(f"/conversations/{conversation_id}/messages")
    assert read.status == 200
    return [message["message"] for message in read.json]


def asks(chatgpt: SimulatedChatGPT) -> int:
    """How many asks upstream received."""
    return chatgpt.received("POST", "conversation")


def rows(house: House, table: str) -> int:
    """How many rows a table of the file has."""
    with closing(sqlite3.connect(house.mirror.path)) as connection:
        found: int = connection.execute(f"select count(*) from {table}").fetchone()[0]
    return found


# ------------------------------------------------------------------------------------------------------- failing


@pytest.mark.parametrize("fault", BROKEN_OFF.values(), ids=BROKEN_OFF)
async def test_an_answer_that_breaks_off_is_readable(
    client: Client, chatgpt: SimulatedChatGPT, fault: dict[str, Any]
) -> None:
    """Half an answer is 502 `answer_incomplete`; what came is where `conversation_id` and `message_id` say."""
    chatgpt.fault("conversation", **fault)
    broken = await ask(client, NEW)
    assert (broken.status, broken.json["code"]) == (502, "answer_incomplete")
    prompt, partial = await said(client, broken.json["conversation_id"])
    assert (prompt, partial != "", answer_to("Hello?").startswith(partial)) == ("Hello?", True, True)
    read = await client.get(f"/conversations/{broken.json['conversation_id']}/messages")
    assert read.json[-1]["id"] == broken.json["message_id"]


async def test_what_upstream_said_of_a_break_is_told(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Its words go along with ours: they may be the only ones that tell why."""
    chatgpt.fault("conversation", stream="error_event", error_text="The model is overloaded")
    assert (await ask(client, NEW)).json["upstream_error"] == "The model is overloaded"


async def test_an_answer_with_no_conversation_is_kept_too(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Where upstream never says in which conversation it answered, the answer is readable in one of our own."""
    event = {"message": {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["Hi."]}}}
    stream = f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n"
    chatgpt.fault("conversation", body=stream, content_type="text/event-stream")
    broken = await ask(client, NEW)
    assert (broken.status, broken.json["code"]) == (502, "answer_incomplete")
    assert await said(client, broken.json["conversation_id"]) == ["Hello?", "Hi."]


async def test_an_echo_alone_is_no_answer(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A stream that only repeats the prompt proves that the prompt arrived, and no more."""
    chatgpt.fault("conversation", stream="only_user_event")
    broken = await ask(client, NEW)
    assert (broken.status, broken.json["code"]) == (502, "answer_incomplete")
    assert await said(client, broken.json["conversation_id"]) == ["Hello?"]


async def test_a_partial_answer_is_made_whole_by_a_fetch(house: House, chatgpt: SimulatedChatGPT) -> None:
    """What upstream wrote on after the line broke replaces what had come."""
    chatgpt.fault("conversation", stream="error_event", times=1)
    broken = await ask(house.client, NEW)
    conversation_id = broken.json["conversation_id"]
    account = chatgpt.alice.user_id
    await house.app[FETCHES].fetch(house.mirror.of(account), conversation_id, lambda: house.auth.caller_of(account))
    assert await said(house.client, conversation_id) == ["Hello?", answer_to("Hello?")]


async def test_going_on_from_a_partial_answer(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The next ask goes on from what came, which upstream has as well."""
    chatgpt.fault("conversation", stream="error_event", times=1)
    conversation_id = (await ask(client, NEW)).json["conversation_id"]
    assert (await ask(client, f"/conversations/{conversation_id}/ask", "Go on?")).status == 201
    (there,) = chatgpt.alice.conversations
    assert [message["author"]["role"] for message in there.branch()][-4:] == ["user", "assistant"] * 2


@pytest.mark.parametrize("fault", SAYS_NOTHING.values(), ids=SAYS_NOTHING)
async def test_an_uncertain_ask_leaves_its_prompt(
    client: Client, chatgpt: SimulatedChatGPT, fault: dict[str, Any]
) -> None:
    """Where nobody can tell whether the prompt arrived: 502 `ask_uncertain`, one request, the prompt readable."""
    chatgpt.fault("conversation", **fault)
    uncertain = await ask(client, NEW)
    assert (uncertain.status, uncertain.json["code"], asks(chatgpt)) == (502, "ask_uncertain", 1)
    assert await said(client, uncertain.json["conversation_id"]) == ["Hello?"]
    (entry,) = (await client.get("/conversations")).json
    assert entry["id"] == uncertain.json["conversation_id"]


async def test_the_ask_after_an_uncertain_one_looks_first(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """Before anyone builds on an uncertain prompt the conversation is fetched, and the ask goes on from its true
    end.
    """
    path = f"/conversations/{groceries.id}/ask"
    await said(client, groceries.id)
    chatgpt.fault("conversation", stream="empty", times=1)
    assert (await ask(client, path, "Lost?")).json["code"] == "ask_uncertain"
    end = groceries.current_node
    chatgpt.requests.clear()
    assert (await ask(client, path, "And now?")).status == 201
    assert [request.method for request in chatgpt.requests] == ["GET", "POST"]
    assert json.loads(chatgpt.requests[1].body)["parent_message_id"] == end
    assert await said(client, groceries.id) == [
        "What do I need?",
        "Milk.",
        "Lost?",
        answer_to("Lost?"),
        "And now?",
        answer_to("And now?"),
    ]


async def test_a_prompt_that_never_arrived_is_passed_over(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """Where upstream turns out not to have the uncertain prompt, the next ask goes on from before it."""
    path = f"/conversations/{groceries.id}/ask"
    await said(client, groceries.id)
    end = groceries.current_node
    chatgpt.fault("conversation", reset=True, times=1)
    assert (await ask(client, path, "Lost?")).json["code"] == "ask_uncertain"
    assert (await ask(client, path, "And now?")).status == 201
    assert json.loads(chatgpt.requests[-1].body)["parent_message_id"] == end


async def test_an_uncertain_draft_is_asked_in_no_more(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A new conversation that may never have reached upstream has no id there to ask under."""
    chatgpt.fault("conversation", stream="empty", times=1)
    draft = (await ask(client, NEW)).json["conversation_id"]
    refused = await ask(client, f"/conversations/{draft}/ask", "More?")
    assert (refused.status, refused.json["code"], asks(chatgpt)) == (409, "conversation_uncertain", 1)


async def test_a_draft_that_did_arrive_becomes_the_conversation(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """When the conversation turns up upstream after all, its draft is gone, and the prompt is there once."""
    chatgpt.fault("conversation", stream="empty", times=1)
    draft = (await ask(client, NEW, title="Mine")).json["conversation_id"]
    (there,) = chatgpt.alice.conversations
    assert await said(client, there.id) == ["Hello?", answer_to("Hello?")]
    assert [entry["id"] for entry in (await client.get("/conversations")).json] == [there.id]
    assert (await client.get(f"/conversations/{draft}/messages")).status == 404


@pytest.mark.parametrize(("error", "expected"), REFUSED.items(), ids=REFUSED)
async def test_a_refused_ask_leaves_nothing(
    house: House, chatgpt: SimulatedChatGPT, error: str, expected: tuple[int, str]
) -> None:
    """Where upstream says no in so many words the client hears it, and no trace of the prompt stays."""
    await house.client.get("/conversations")
    chatgpt.fault("conversation", error=error)
    refused = await ask(house.client, NEW)
    assert (refused.status, refused.json["code"]) == expected
    assert (rows(house, "node"), rows(house, "conversation")) == (0, 0)


@pytest.mark.parametrize("error", ["html_403", "hourly_limit", "not_found"])
async def test_a_refused_ask_leaves_the_conversation_as_it_was(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation, error: str
) -> None:
    """The conversation reads, byte for byte, as before."""
    before = await client.get(f"/conversations/{groceries.id}")
    chatgpt.fault("conversation", error=error)
    assert (await ask(client, f"/conversations/{groceries.id}/ask")).status >= 400
    assert (await client.get(f"/conversations/{groceries.id}")).body == before.body


async def test_a_bot_check_names_the_alternatives(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Who is turned away for being a program is told what to do instead."""
    chatgpt.fault("conversation", error="html_403")
    refused = await ask(client, NEW)
    assert "[upstream] base_url" in refused.json["error"]
    assert "Reading goes on" in refused.json["error"]


async def test_a_bot_check_in_words_names_the_alternatives_too(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Upstream's own JSON is the error, and what to do stands beside it."""
    chatgpt.fault("conversation", error="unusual_activity")
    refused = await ask(client, NEW)
    assert "unusual activity" in refused.json["error"]["detail"]
    assert "[upstream] base_url" in refused.json["hint"]


async def test_a_cap_is_told_in_upstream_s_words_as_long_as_it_holds(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Who asks a capped model again hears what the first one heard, and nothing is sent."""
    chatgpt.fault("conversation", error="model_cap", times=1)
    first, second = await ask(client, NEW), await ask(client, NEW)
    assert first.json == second.json
    assert chatgpt.received("POST") == 1


async def test_upstream_s_own_words_are_passed_on(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """`error` is upstream's JSON where it sent some."""
    chatgpt.fault("conversation", error="model_cap")
    refused = await ask(client, NEW)
    assert refused.json["error"]["detail"]["code"] == "model_cap_exceeded"
    assert refused.headers["Retry-After"] == "252"


# ------------------------------------------------------------------------------------------------- Idempotency-Key


async def test_a_key_answers_the_same_and_asks_nothing(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The same request under the same key is answered from the mirror."""
    first = await ask(client, NEW, key="k1")
    await ask(client, f"/conversations/{first.json['response']['conversation_id']}/ask", "More?")
    again = await ask(client, NEW, key="k1")
    assert (again.status, again.body, asks(chatgpt)) == (201, first.body, 2)


@pytest.mark.parametrize("changed", [{"prompt": "Other?"}, {"model": "gpt-4o"}, {"title": "T"}, {"autocontinue": True}])
async def test_a_key_of_another_request(client: Client, chatgpt: SimulatedChatGPT, changed: dict[str, Any]) -> None:
    """A key that was used for something else is a 409."""
    await ask(client, NEW, key="k1")
    refused = await client.post(NEW, json={"prompt": "Hello?", **changed}, headers={"Idempotency-Key": "k1"})
    assert (refused.status, refused.json["code"], asks(chatgpt)) == (409, "idempotency_key_reused", 1)


async def test_a_key_of_another_path(client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation) -> None:
    """The same body to another conversation is another request."""
    await ask(client, NEW, key="k1")
    assert (await ask(client, f"/conversations/{groceries.id}/ask", key="k1")).status == 409
    assert asks(chatgpt) == 1


async def test_twins_under_one_key(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Requests at once under one key are one ask; a different one among them is told so at once."""
    fault = chatgpt.fault("conversation", hold_after_events=1)
    twins = [asyncio.create_task(ask(client, NEW, key="k1")) for _ in range(4)]
    await fault.until_held()
    assert (await ask(client, NEW, "Other?", key="k1")).status == 409
    fault.release()
    answers = await asyncio.gather(*twins)
    assert {(answer.status, answer.body) for answer in answers} == {(201, answers[0].body)}
    assert asks(chatgpt) == 1


async def test_a_key_outlives_the_process(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """After a restart the same key still answers the same."""
    bodies = []
    for _ in range(2):
        async with open_house(tmp_path, chatgpt, base_url, clock) as house:
            bodies.append((await ask(house.client, NEW, key="k1")).body)
    assert (bodies[0], asks(chatgpt)) == (bodies[1], 1)


async def test_keys_of_two_accounts_are_apart(house: House, chatgpt: SimulatedChatGPT) -> None:
    """The same key of somebody else is another key."""
    first = await ask(house.client, NEW, key="k1")
    other = await ask(house.client_of(chatgpt.bob), NEW, key="k1")
    assert (other.status, other.body != first.body, asks(chatgpt)) == (201, True, 2)


@pytest.mark.parametrize(
    ("stream", "code"), [("error_event", "answer_incomplete"), ("empty", "ask_uncertain")], ids=["partial", "uncertain"]
)
async def test_a_key_never_sends_a_prompt_twice(
    client: Client, chatgpt: SimulatedChatGPT, stream: str, code: str
) -> None:
    """An ask that may have arrived is not sent again under its key, and the retry learns where its prompt is."""
    chatgpt.fault("conversation", stream=stream, times=1)
    first = await ask(client, NEW, key="k1")
    again = await ask(client, NEW, key="k1")
    assert [(each.status, each.json["code"]) for each in (first, again)] == [(502, code)] * 2
    assert again.json["conversation_id"] == first.json["conversation_id"]
    assert asks(chatgpt) == 1


async def test_a_key_of_a_refused_ask_is_free(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """What upstream refused was never asked: its key asks."""
    chatgpt.fault("conversation", error="html_403", times=1)
    assert (await ask(client, NEW, key="k1")).status == 502
    assert (await ask(client, NEW, key="k1")).status == 201


async def test_a_key_lasts_a_day(client: Client, chatgpt: SimulatedChatGPT, clock: ManualClock) -> None:
    """Within the day the key answers, after it it is free, for any request."""
    await ask(client, NEW, key="k1")
    clock.move(seconds=DAY_SECONDS - 1)
    assert ((await ask(client, NEW, key="k1")).status, asks(chatgpt)) == (201, 1)
    clock.move(seconds=2)
    assert ((await ask(client, NEW, "Other?", key="k1")).status, asks(chatgpt)) == (201, 2)
    assert ((await ask(client, NEW, "Other?", key="k1")).status, asks(chatgpt)) == (201, 2)


async def test_a_key_needs_no_budget(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """A retry whose answer is here is answered though the budget is spent; one that would have to ask is not."""
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="2") as house:
        first = await ask(house.client, NEW, key="k1")
        again = await ask(house.client, NEW, key="k1")
        refused = await ask(house.client, NEW, key="k2")
        assert (again.status, again.body, refused.status) == (201, first.body, 500)
        assert (rows(house, "conversation"), asks(chatgpt)) == (1, 1)


@pytest.mark.parametrize("key", ["", "a" * 256, "two words", "\u00e9"], ids=["empty", "long", "space", "accent"])
async def test_a_key_that_is_none(client: Client, chatgpt: SimulatedChatGPT, key: str) -> None:
    """A key is 1 to 255 visible ASCII characters."""
    refused = await ask(client, NEW, key=key)
    assert refused.json["error"] == "Idempotency-Key must be 1 to 255 visible ASCII characters"
    assert (refused.status, asks(chatgpt)) == (400, 0)


async def test_a_key_gives_the_answer_once_it_is_whole(house: House, client: Client, chatgpt: SimulatedChatGPT) -> None:
    """An answer that broke off, and has been completed from ChatGPT since, is what its key gives; nothing is asked."""
    chatgpt.fault("conversation", stream="error_event", after_events=2)
    key, account = {"Idempotency-Key": "once"}, chatgpt.alice.user_id
    broken = await client.post("/conversations/new", json={"prompt": "Hello?"}, headers=key)
    again = await client.post("/conversations/new", json={"prompt": "Hello?"}, headers=key)
    assert (again.status, again.json["message_id"]) == (502, broken.json["message_id"])
    await house.app[FETCHES].fetch(
        house.mirror.of(account), broken.json["conversation_id"], lambda: house.auth.caller_of(account)
    )
    whole = await client.post("/conversations/new", json={"prompt": "Hello?"}, headers=key)
    assert (whole.status, whole.json["response"]["message"]) == (201, answer_to("Hello?"))
    assert chatgpt.received("POST", "conversation") == 1
