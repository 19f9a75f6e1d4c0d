# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking: what upstream is asked, what comes back, what is readable afterwards, and in which order things happen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest.ask import Asking, AskRequest
from chatgpt_rest.context import ASKING, EDITS, FETCHES, HISTORIES, MODELS
from chatgpt_rest.errors import AnswerIncomplete, AskUncertain, Unavailable, UpstreamBusy
from chatgpt_rest.exchange import CONTINUATIONS
from chatgpt_rest.upstream.revchatgpt import RevChatGPT
from chatgpt_rest.upstream.simulated import ReceivedRequest, SimConversation, SimulatedChatGPT, answer_to, segments
from tests.house import Answered, Client, House, ManualClock, open_house

WHOLE: Final = [
    None,
    "no_done",
    "no_space",
    "multi_line_data",
    "raw_separators",
    "title_event",
    "tool_messages_between",
    "trailing_after_done",
]
"""Streams that tell a whole answer, each in a way that has been seen."""
SPOILT: Final = ["null_author", "null_metadata", "null_finish_details", "missing_ids", "non_string_parts"]
"""The same with something missing that revChatGPT takes for granted."""


@pytest.fixture
def groceries(chatgpt: SimulatedChatGPT) -> SimConversation:
    """A conversation of two turns that ChatGPT has and the mirror has not."""
    return chatgpt.alice.add_conversation("Groceries", [("What do I need?", "Milk."), ("And then?", "Bread.")])


async def ask(client: Client, conversation: SimConversation | str | None, prompt: str, **fields: Any) -> Answered:
    """Ask in a conversation, or in a new one."""
    if conversation is None:
        return await client.post("/conversations/new", json={"prompt": prompt, **fields})
    conversation_id = conversation if isinstance(conversation, str) else conversation.id
    return await client.post(f"/conversations/{conversation_id}/ask", json={"prompt": prompt, **fields})


async def messages(client: Client, conversation_id: str) -> list[dict[str, Any]]:
    """What `GET messages` answers."""
    read = await client.get(f"/conversations/{conversation_id}/messages")
    assert read.status == 200
    return list(read.json)


def asked(chatgpt: SimulatedChatGPT) -> list[ReceivedRequest]:
    """The asks that upstream received."""
    return [request for request in chatgpt.requests if request.matches("POST", "conversation", None)]


def sent(request: ReceivedRequest) -> Any:
    """The JSON that a request carried."""
    return json.loads(request.body)


# ------------------------------------------------------------------------------------------------- what is asked


async def test_prompt_and_answer_are_readable_at_once(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The next read shows the prompt under the id that upstream has, and the answer, and asks nothing."""
    answer = (await ask(client, None, "Hello?")).json["response"]
    (there,) = chatgpt.alice.conversations
    seen = chatgpt.received()
    said = await messages(client, there.id)
    assert [(message["id"], message["message"]) for message in said] == [
        (there.last("user"), "Hello?"),
        (there.current_node, answer_to("Hello?")),
    ]
    assert (said[-1], chatgpt.received()) == (answer, seen)


async def test_the_parent_comes_from_the_mirror(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """Without `parent_id` an ask goes on from the end of the branch the mirror has: one request."""
    await messages(client, groceries.id)
    end = groceries.current_node
    chatgpt.requests.clear()
    assert (await ask(client, groceries, "Eggs?")).status == 201
    (request,) = chatgpt.requests
    body = sent(request)
    assert (request.method, request.path) == ("POST", "/backend-api/conversation")
    assert (body["action"], body["conversation_id"], body["parent_message_id"]) == ("next", groceries.id, end)
    assert body["messages"][0]["content"] == {"content_type": "text", "parts": ["Eggs?"]}


async def test_one_ask_after_another_needs_one_request_each(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A conversation that began here is gone on with from its last answer."""
    first = (await ask(client, None, "One?")).json["response"]
    second = (await ask(client, first["conversation_id"], "Two?")).json["response"]
    assert sent(asked(chatgpt)[1])["parent_message_id"] == first["parent_id"]
    assert [message["message"] for message in await messages(client, first["conversation_id"])] == [
        "One?",
        answer_to("One?"),
        "Two?",
        second["message"],
    ]
    assert chatgpt.received() == 3


async def test_an_ask_in_what_is_not_here_fetches_it_first(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """A conversation that the mirror does not hold is fetched, for its end."""
    end = groceries.current_node
    assert (await ask(client, groceries, "Eggs?")).status == 201
    assert chatgpt.received("GET", f"conversation/{groceries.id}") == 1
    assert sent(asked(chatgpt)[0])["parent_message_id"] == end


async def test_an_explicit_parent_makes_a_branch(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """With `parent_id` the ask goes on from there; the current branch is the new one, and the other one stays."""
    said = await messages(client, groceries.id)
    answer = await ask(client, groceries, "Eggs?", parent_id=said[1]["parent_id"])
    assert sent(asked(chatgpt)[0])["parent_message_id"] == said[1]["id"]
    assert await messages(client, groceries.id) == [*said[:2], *(await messages(client, groceries.id))[2:]]
    assert (await messages(client, groceries.id))[-1] == answer.json["response"]
    whole = (await client.get(f"/conversations/{groceries.id}")).json
    assert len(whole["mapping"][said[1]["id"]]["children"]) == 2
    assert whole["mapping"] == groceries.detail()["mapping"]


async def test_an_unknown_parent_is_refused(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """A `parent_id` that the conversation does not have, not even upstream, is a 400, and nothing is asked."""
    await messages(client, groceries.id)
    refused = await ask(client, groceries, "Eggs?", parent_id="00000000-0000-4000-8000-000000000000")
    assert (refused.status, refused.json["error"]) == (400, "parent_id names no message of this conversation")
    assert (asked(chatgpt), chatgpt.received("GET", "conversation/*")) == ([], 2)


async def test_a_parent_written_in_the_browser_meanwhile_is_found(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """A `parent_id` that is newer than the mirror is looked for upstream before it is refused."""
    await messages(client, groceries.id)
    newer = groceries.add_turn("In the browser")
    assert (await ask(client, groceries, "Eggs?", parent_id=newer)).status == 201
    assert sent(asked(chatgpt)[0])["parent_message_id"] == newer


@pytest.mark.parametrize(("model", "expected"), [(None, "auto"), ("", "auto"), ("gpt-4o", "gpt-4o")])
async def test_the_model_is_passed_on(
    client: Client, chatgpt: SimulatedChatGPT, model: str | None, expected: str
) -> None:
    """Upstream is asked for the model that the request names, else for the configured one."""
    await ask(client, None, "Hello?", model=model)
    assert sent(asked(chatgpt)[0])["model"] == expected


async def test_an_ask_in_a_conversation_that_nobody_has(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """An unknown conversation is a 404, asked for once in ten minutes."""
    for _ in range(2):
        refused = await ask(client, "00000000-0000-4000-8000-000000000000", "Hello?")
        assert (refused.status, refused.json["code"]) == (404, "not_found")
    assert (asked(chatgpt), chatgpt.received("GET", "conversation/*")) == ([], 1)


async def test_an_ask_in_a_deleted_conversation(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """What was deleted here is gone: nothing is asked."""
    await client.delete(f"/conversations/{groceries.id}")
    assert (await ask(client, groceries, "Hello?")).status == 404
    assert asked(chatgpt) == []


async def test_an_ask_in_an_empty_conversation(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A conversation without a single message has none to go on from."""
    chatgpt.fault("conversation/c0ffee", body={"conversation_id": "c0ffee", "mapping": {}})
    refused = await ask(client, "c0ffee", "Hello?")
    assert (refused.status, refused.json["code"], asked(chatgpt)) == (409, "conversation_empty", [])


# ------------------------------------------------------------------------------------------------ what comes back


@pytest.mark.parametrize("stream", [*WHOLE, *SPOILT], ids=str)
async def test_the_answer_ends_the_messages(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation, stream: str | None
) -> None:
    """However the stream is written, the response equals the last of `GET messages`, field by field."""
    chatgpt.fault("conversation", stream=stream)
    answer = await ask(client, groceries, "Hello?")
    assert answer.status == 201
    assert answer_to("Hello?") in answer.json["response"]["message"]
    assert (await messages(client, groceries.id))[-1] == answer.json["response"]


@pytest.mark.parametrize("prompt", ["Hello?", "[[max_tokens]] Cut", "\u2028 odd \x00 \x85 🧾"], ids=ascii)
@pytest.mark.parametrize("stream", WHOLE, ids=str)
async def test_the_answer_ends_the_messages_after_a_fetch_too(
    house: House, chatgpt: SimulatedChatGPT, stream: str | None, prompt: str
) -> None:
    """What the stream told equals what upstream shows later."""
    chatgpt.fault("conversation", stream=stream)
    answer = (await ask(house.client, None, prompt)).json["response"]
    account = chatgpt.alice.user_id
    await house.app[FETCHES].fetch(
        house.mirror.of(account), answer["conversation_id"], lambda: house.auth.caller_of(account)
    )
    assert (await messages(house.client, answer["conversation_id"]))[-1] == answer
    (there,) = chatgpt.alice.conversations
    assert (await house.client.get(f"/conversations/{there.id}")).json["mapping"] == there.detail()["mapping"]


async def test_a_cut_answer_stays_cut_unless_wished_otherwise(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Without `autocontinue` an answer that hit the limit of tokens says so."""
    prompt = "[[max_tokens:2]] Go on"
    answer = (await ask(client, None, prompt)).json["response"]
    assert answer["message"] == segments(prompt, cuts=2)[0]
    assert (answer["finish_details"], answer["end_turn"], len(asked(chatgpt))) == ("max_tokens", False, 1)


@pytest.mark.parametrize("cuts", [1, 3])
async def test_a_continued_answer_has_no_seam(client: Client, chatgpt: SimulatedChatGPT, cuts: int) -> None:
    """With `autocontinue` the pieces are one message, every newline at the seams kept, here and in `messages`."""
    prompt = f"[[max_tokens:{cuts}]] Go on"
    answer = (await ask(client, None, prompt, autocontinue=True)).json["response"]
    assert answer["message"] == "".join(segments(prompt, cuts=cuts))
    assert (answer["finish_details"], answer["end_turn"]) == ("stop", True)
    said = await messages(client, answer["conversation_id"])
    assert (len(said), said[-1]) == (2, answer)
    first, *others = [sent(request) for request in asked(chatgpt)]
    assert (first["action"], [body["action"] for body in others]) == ("next", ["continue"] * cuts)
    assert len({body["parent_message_id"] for body in others}) == cuts


async def test_an_answer_that_never_ends_is_continued_so_often_only(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A model that is cut each time does not spend the whole budget."""
    prompt = "[[max_tokens:20]] Go on"
    answer = (await ask(client, None, prompt, autocontinue=True)).json["response"]
    assert answer["message"] == "".join(segments(prompt, cuts=20)[: CONTINUATIONS + 1])
    assert (answer["finish_details"], len(asked(chatgpt))) == ("max_tokens", CONTINUATIONS + 1)


async def test_a_budget_spent_on_the_way_gives_the_cut_answer(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Where no token is left to continue, what was paid for is the answer."""
    prompt = "[[max_tokens:3]] Go on"
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="3") as house:
        answer = await ask(house.client, None, prompt, autocontinue=True)
        said = await messages(house.client, answer.json["response"]["conversation_id"])
    assert (answer.status, answer.json["response"]["message"]) == (201, "".join(segments(prompt, cuts=3)[:2]))
    assert (answer.json["response"], chatgpt.received()) == (said[-1], 3)


@pytest.mark.parametrize("error", ["hourly_limit", "server_error", "html_403", "bad_token", "not_found"])
async def test_a_continuation_that_is_refused_gives_the_cut_answer(
    client: Client, chatgpt: SimulatedChatGPT, error: str
) -> None:
    """Where upstream will not continue, what it said so far is the answer."""
    prompt = "[[max_tokens]] Go on"
    chatgpt.fault("conversation", after=1, error=error)
    answer = await ask(client, None, prompt, autocontinue=True)
    assert (answer.status, answer.json["response"]["message"]) == (201, segments(prompt, cuts=1)[0])


async def test_a_continuation_that_breaks_off_keeps_what_came(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Where a continuation breaks in mid-stream the answer is incomplete, and all that came is readable as one."""
    prompt = "[[max_tokens]] Go on"
    chatgpt.fault("conversation", after=1, stream="error_event", after_events=3)
    broken = await ask(client, None, prompt, autocontinue=True)
    assert (broken.status, broken.json["code"]) == (502, "answer_incomplete")
    said = await messages(client, broken.json["conversation_id"])
    first, second = segments(prompt, cuts=1)
    assert len(said) == 2
    assert said[-1]["message"].startswith(first)
    assert (first + second).startswith(said[-1]["message"])
    assert len(said[-1]["message"]) > len(first)


# ---------------------------------------------------------------------------------------------------- in which order


async def test_asks_of_one_account_go_one_at_a_time(house: House, chatgpt: SimulatedChatGPT) -> None:
    """ChatGPT writes one answer at a time for an account; another account's ask does not wait for that."""
    alice, bob = house.client, house.client_of(chatgpt.bob)
    fault = chatgpt.fault("conversation", hold_after_events=1, account=chatgpt.alice.user_id)
    asks = [asyncio.create_task(ask(alice, None, f"Alice {number}?")) for number in range(3)]
    await fault.until_held()
    assert (await ask(bob, None, "Bob?")).status == 201
    assert chatgpt.received("POST", "conversation", account=chatgpt.alice.user_id) == 1
    fault.release()
    assert [answer.status for answer in await asyncio.gather(*asks)] == [201] * 3
    assert [request.status for request in asked(chatgpt)] == [200] * 4


async def test_asks_at_once_in_one_conversation_form_one_branch(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """Each goes on from the answer before it."""
    await asyncio.gather(*(ask(client, groceries, f"Number {number}?") for number in range(4)))
    said = await messages(client, groceries.id)
    assert len(said) == 4 + 2 * 4
    assert groceries.branch()[-1]["id"] == said[-1]["id"]


@pytest.fixture
async def patient(house: House, base_url: str) -> AsyncIterator[tuple[Asking, list[float]]]:
    """Asking whose pauses take no time, and those pauses."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    upstream = RevChatGPT(base_url=base_url)
    yield (
        Asking(
            upstream,
            house.mirror.requests,
            default_model="auto",
            fetch=house.app[FETCHES].fetch,
            check_model=house.app[MODELS].check,
            find_place=house.app[HISTORIES].place,
            push_title=house.app[EDITS].push_title,
            sleep=pause,
        ),
        pauses,
    )
    await upstream.aclose()


async def test_one_message_at_a_time_is_tried_again(
    house: House, chatgpt: SimulatedChatGPT, patient: tuple[Asking, list[float]]
) -> None:
    """While the person's own browser is asking, the ask waits and is sent again, with the same message's id."""
    asking, pauses = patient
    await house.client.get("/conversations")
    chatgpt.fault("conversation", error="one_at_a_time", times=2)
    account = chatgpt.alice.user_id
    answer = await asking.ask(
        house.mirror.of(account), AskRequest(prompt="Hello?"), lambda: house.auth.caller_of(account)
    )
    assert (answer["message"], pauses) == (answer_to("Hello?"), [1.0, 2.0])
    assert len({sent(request)["messages"][0]["id"] for request in asked(chatgpt)}) == 1


async def test_one_message_at_a_time_for_too_long(
    house: House, chatgpt: SimulatedChatGPT, patient: tuple[Asking, list[float]]
) -> None:
    """After some fifteen seconds the ask is refused, and nothing of it is kept."""
    asking, pauses = patient
    await house.client.get("/conversations")
    chatgpt.fault("conversation", error="one_at_a_time")
    account = chatgpt.alice.user_id
    with pytest.raises(UpstreamBusy):
        await asking.ask(house.mirror.of(account), AskRequest(prompt="?"), lambda: house.auth.caller_of(account))
    assert (pauses, len(asked(chatgpt))) == ([1.0, 2.0, 4.0, 8.0], 5)
    assert (await house.client.get("/conversations")).json == []


async def test_a_prompt_that_was_taken_is_not_sent_again(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """`Only one message at a time` in the middle of an answer is no reason to ask once more."""
    chatgpt.fault("conversation", stream="error_event", error_text="Only one message at a time. Please wait.")
    broken = await ask(client, None, "Hello?")
    assert (broken.status, broken.json["code"], len(asked(chatgpt))) == (502, "answer_incomplete", 1)


async def test_a_client_that_hangs_up_loses_nothing(house: House, chatgpt: SimulatedChatGPT) -> None:
    """An answer goes on being written down though nobody waits for it any more."""
    fault = chatgpt.fault("conversation", hold_after_events=1)
    waiting = asyncio.create_task(ask(house.client, None, "Hello?"))
    await fault.until_held()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    fault.release()
    await house.app[ASKING].drain(10)
    (there,) = chatgpt.alice.conversations
    assert [message["message"] for message in await messages(house.client, there.id)] == ["Hello?", answer_to("Hello?")]
    assert len(asked(chatgpt)) == 1


async def test_an_answer_is_readable_while_it_comes(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Other readers see the prompt and the beginning of the answer before it is whole."""
    fault = chatgpt.fault("conversation", hold_after_events=1)
    waiting = asyncio.create_task(ask(client, None, "Hello?"))
    await fault.until_held()
    (there,) = chatgpt.alice.conversations
    async with asyncio.timeout(10):
        while len(said := (await client.get(f"/conversations/{there.id}/messages")).json) < 2:
            pass  # the first event is on its way through the server
    assert said[0]["message"] == "Hello?"
    assert answer_to("Hello?").startswith(said[1]["message"])
    fault.release()
    assert (await waiting).json["response"] == (await messages(client, there.id))[-1]


async def test_shutting_down_finishes_answers_and_begins_none(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Draining waits for the answer under way; who asks meanwhile is told to come back."""
    fault = chatgpt.fault("conversation", hold_after_events=1)
    under_way = asyncio.create_task(ask(house.client, None, "Hello?"))
    await fault.until_held()
    drained = asyncio.create_task(house.app[ASKING].drain(10))
    await asyncio.wait([drained], timeout=0)
    late = await ask(house.client, None, "Late?")
    assert (late.status, late.json["code"], late.headers["Retry-After"]) == (503, "unavailable", "5")
    fault.release()
    await drained
    assert (await under_way).json["response"]["message"] == answer_to("Hello?")


async def test_an_answer_that_outlasts_the_shutdown_is_kept_as_far_as_it_came(
    house: House, chatgpt: SimulatedChatGPT
) -> None:
    """After the time for draining an answer is broken off, told so to who waits, and readable as far as it came."""
    fault = chatgpt.fault("conversation", hold_after_events=2)
    under_way = asyncio.create_task(ask(house.client, None, "Hello?"))
    await fault.until_held()
    (there,) = chatgpt.alice.conversations
    async with asyncio.timeout(10):
        while len((await house.client.get(f"/conversations/{there.id}/messages")).json) < 2:
            pass  # the events are on their way through the server
    await house.app[ASKING].drain(0)
    broken = await under_way
    assert (broken.status, broken.json["code"]) == (502, "answer_incomplete")
    prompt, partial = await messages(house.client, there.id)
    assert prompt["message"] == "Hello?"
    assert answer_to("Hello?").startswith(partial["message"])


async def test_an_ask_that_waits_at_the_shutdown_was_never_sent(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Who waits for a turn that does not come is told to ask again, and nothing is asked."""
    await house.client.get("/conversations")
    fault = chatgpt.fault("conversation", hold_after_events=1)
    account, asking = chatgpt.alice.user_id, house.app[ASKING]
    asks = [
        asyncio.create_task(
            asking.ask(house.mirror.of(account), AskRequest(prompt=prompt), lambda: house.auth.caller_of(account))
        )
        for prompt in ("First?", "Second?")
    ]
    await fault.until_held()
    await asking.drain(0)
    ended = {type(error) for error in await asyncio.gather(*asks, return_exceptions=True)}
    assert ended in ({Unavailable, AnswerIncomplete}, {Unavailable, AskUncertain})
    assert len(asked(chatgpt)) == 1
