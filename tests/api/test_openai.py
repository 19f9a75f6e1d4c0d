# SPDX-License-Identifier: GPL-2.0-or-later
"""`/v1/chat/completions` over HTTP: what is asked, where it goes on, what comes back whole and in chunks."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatgpt_rest.clock import SECOND
from chatgpt_rest.upstream.simulated import SimulatedChatGPT, answer_to
from tests.chat import PATH, asks, assistant, branch, chunks, complete, content, sent, stream, text_of, user
from tests.house import Answered, Client, House, ManualClock, open_house


def answering(*said: str, **metadata: object) -> str:
    """A stream of upstream's in which the assistant says these at once, a message each."""
    messages = [
        {
            "id": f"m{number}",
            "author": {"role": "assistant"},
            "content": {"content_type": "text", "parts": [words]},
            "metadata": metadata,
        }
        for number, words in enumerate(said)
    ]
    events = [json.dumps({"message": message, "conversation_id": "c1", "error": None}) for message in messages]
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])


# ---------------------------------------------------------------------------------------------------- the whole answer


async def test_a_completion_has_openais_shape(client: Client, chatgpt: SimulatedChatGPT, clock: ManualClock) -> None:
    """Every member that clients read, and no usage: nobody has counted."""
    answer = await complete(client, user("Hello?"), model="gpt-4o")
    (conversation,) = chatgpt.alice.conversations
    assert answer.status == 200
    assert answer.json == {
        "id": f"chatcmpl-{conversation.current_node}",
        "object": "chat.completion",
        "created": clock.now() // SECOND,
        "model": "gpt-4o",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer_to("Hello?"), "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
    }


async def test_the_headers_name_where_it_is(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The conversation and the message can be read, exported and gone on from by their ids."""
    answer = await complete(client, user("Hello?"))
    (conversation,) = chatgpt.alice.conversations
    assert answer.headers["X-Conversation-Id"] == conversation.id
    assert answer.headers["X-Message-Id"] == conversation.current_node
    read = await client.get(f"/conversations/{conversation.id}/messages")
    assert read.json[-1]["message"] == content(answer)


async def test_the_budget_is_told(client: Client) -> None:
    """As for every request that needs ChatGPT."""
    answer = await complete(client, user("Hello?"))
    assert answer.headers["RateLimit"].startswith('"hour";r=48;')


async def test_a_cut_answer_says_so(client: Client) -> None:
    """`length`, and it is not continued: that would be another request."""
    answer = await complete(client, user("Go on [[max_tokens]]"))
    assert answer.json["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("model", [None, "", "auto"])
async def test_a_model_need_not_be_named(client: Client, chatgpt: SimulatedChatGPT, model: str | None) -> None:
    """Without a name it is the configured one, and the answer says which model it was."""
    answer = await complete(client, user("Hello?"), model=model)
    assert asks(chatgpt)[0]["model"] == "auto"
    assert answer.json["model"] == chatgpt.alice.conversations[0].model


async def test_an_answer_of_several_messages_is_one(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """What the assistant says to its tools is not shown, streamed or not."""
    chatgpt.fault("conversation", stream="tool_messages_between")
    assert content(await complete(client, user("Hello?"))) == answer_to("Hello?")
    assert text_of(await stream(client, user("Hello?"))) == answer_to("Hello?")


async def test_unknown_parameters_are_ignored(client: Client) -> None:
    """As other compatible servers do: clients send them without being asked."""
    names = ("temperature", "max_tokens", "tools", "response_format", "seed", "user", "made_up")
    ignored: dict[str, Any] = {name: [{"type": "function"}] for name in names}
    answer = await complete(client, user("Hello?"), n=1, stop=None, **ignored)
    assert content(answer) == answer_to("Hello?")


async def test_text_parts_are_text(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A message in parts is the same as one in whole, a line for each part."""
    parts = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two?"}]
    await complete(client, {"role": "user", "content": parts, "name": "me"})
    assert sent(asks(chatgpt)[0]) == [("user", "One.\nTwo?")]


# ------------------------------------------------------------------------------------------------------------- chunks


async def test_the_chunks_are_the_answer(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """First the role, then the words, then how it ended, then `[DONE]`; all of them under one id."""
    events = await stream(client, user("Hello?"), model="gpt-4o")
    *pieces, done = events
    assert done == "[DONE]"
    assert pieces[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert text_of(events) == answer_to("Hello?")
    assert [each["choices"][0]["finish_reason"] for each in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    assert pieces[-1]["choices"][0]["delta"] == {}
    assert {each["id"] for each in pieces} == {f"chatcmpl-{chatgpt.alice.conversations[0].current_node}"}
    assert {(each["object"], each["model"]) for each in pieces} == {("chat.completion.chunk", "gpt-4o")}


async def test_usage_that_nobody_told_is_not_made_up(client: Client) -> None:
    """`include_usage` is accepted, and no chunk has any."""
    events = await stream(client, user("Hello?"), stream_options={"include_usage": True})
    assert all("usage" not in each for each in events)
    assert events[-1] == "[DONE]"


async def test_usage_that_upstream_told_is_passed_on(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """With the whole answer, and in a chunk of its own where the client asks for that."""
    usage = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}
    said = answering("Hi.", usage=usage, finish_details={"type": "stop"})
    chatgpt.fault("conversation", body=said, content_type="text/event-stream")
    assert (await complete(client, user("Hello?"))).json["usage"] == usage
    events = await stream(client, user("Hello?"), stream_options={"include_usage": True})
    assert (events[-2]["choices"], events[-2]["usage"]) == ([], usage)
    assert all("usage" not in each for each in await stream(client, user("Hello?")))


async def test_an_answer_without_a_word_is_one(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Whole or in chunks, with an empty text."""
    said = answering("", finish_details={"type": "stop"})
    chatgpt.fault("conversation", body=said, content_type="text/event-stream")
    assert content(await complete(client, user("Hello?"))) == ""
    events = await stream(client, user("Hello?"))
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert (text_of(events), events[-1]) == ("", "[DONE]")


async def test_what_is_said_before_a_tool_is_used_belongs_to_the_answer(
    client: Client, chatgpt: SimulatedChatGPT
) -> None:
    """A blank line between, streamed or not; and the history with it is known."""
    said = answering("Let me look.", "It rains.", finish_details={"type": "stop"})
    chatgpt.fault("conversation", body=said, content_type="text/event-stream")
    assert text_of(await stream(client, user("Hello?"))) == "Let me look.\n\nIt rains."
    whole = await complete(client, user("And now?"))
    assert content(whole) == "Let me look.\n\nIt rains."
    await complete(client, user("And now?"), assistant(content(whole)), user("And then?"))
    assert asks(chatgpt)[2]["parent_message_id"] == whole.headers["X-Message-Id"]


async def test_markers_are_not_shown(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """ChatGPT's citations are private-use characters to everybody else; one that never ends is held back to the end."""
    said = answering("Rain\ue200cite\ue202turn0search1\ue201 at noon.", finish_details={"type": "stop"})
    chatgpt.fault("conversation", body=said, content_type="text/event-stream")
    assert content(await complete(client, user("Hello?"))) == "Rain at noon."
    assert text_of(await stream(client, user("Hello?"))) == "Rain at noon."


async def test_a_stream_names_its_conversation(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The headers leave with the first words, when upstream has said where."""
    answer = await complete(client, user("Hello?"), stream=True)
    assert answer.headers["X-Conversation-Id"] == chatgpt.alice.conversations[0].id


async def test_an_error_in_mid_stream_ends_it(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The words that came, then the error in OpenAI's shape, and no `[DONE]`."""
    fault = chatgpt.fault("conversation", stream="error_event", after_events=4, hold_after_events=2)
    body = {"messages": [user("Hello?")], "stream": True}
    headers = {"Authorization": client.authorization or ""}
    async with client.session.post(client.address + PATH, json=body, headers=headers) as response:
        fault.release()
        events = chunks(Answered(200, {}, await response.read(), None))
    assert text_of(events[:-1]) != ""
    assert (events[-1]["error"]["type"], events[-1]["error"]["code"]) == ("server_error", "answer_incomplete")
    assert events[-1]["error"]["conversation_id"] == chatgpt.alice.conversations[0].id


async def test_an_error_before_the_first_word_has_its_status(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A stream that never began is no stream."""
    chatgpt.fault("conversation", error="hourly_limit")
    refused = await complete(client, user("Hello?"), stream=True)
    assert (refused.status, refused.json["error"]["code"]) == (429, "upstream_rate_limit")


async def test_a_client_that_hangs_up_changes_nothing(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The answer is written to its end, and the history with the half that came goes on from the whole."""
    fault = chatgpt.fault("conversation", hold_after_events=4, times=1)
    body = {"messages": [user("Hello?")], "stream": True}
    headers = {"Authorization": client.authorization or ""}
    async with client.session.post(client.address + PATH, json=body, headers=headers) as response:
        received = b""
        async for line in response.content:
            received += line
            if text_of(chunks(Answered(200, {}, received, None))):
                break
    half = text_of(chunks(Answered(200, {}, received, None)))
    fault.release()
    assert 0 < len(half) < len(answer_to("Hello?"))
    await complete(client, user("Hello?"), assistant(half), user("And then?"))
    (conversation,) = chatgpt.alice.conversations
    words = ["Hello?", answer_to("Hello?"), "And then?", answer_to("And then?")]
    assert branch(conversation) == list(zip(["user", "assistant"] * 2, words, strict=True))


# ---------------------------------------------------------------------------------------------------------- histories


async def test_a_known_history_goes_on_in_its_conversation(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The new message alone is sent, below the answer it follows, in one request."""
    first = content(await complete(client, user("Hello?")))
    await complete(client, user("Hello?"), assistant(first), user("And then?"))
    (conversation,) = chatgpt.alice.conversations
    assert [sent(asked) for asked in asks(chatgpt)] == [[("user", "Hello?")], [("user", "And then?")]]
    assert asks(chatgpt)[1]["conversation_id"] == conversation.id
    assert len(branch(conversation)) == 4


async def test_an_edited_history_is_a_branch(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """As in ChatGPT: what was said before the edit is shared, and nothing is lost."""
    first = content(await complete(client, user("Hello?")))
    await complete(client, user("Hello?"), assistant(first), user("And then?"))
    await complete(client, user("Hello?"), assistant(first), user("And otherwise?"))
    (conversation,) = chatgpt.alice.conversations
    parents = {asked["parent_message_id"] for asked in asks(chatgpt)[1:]}
    assert len(parents) == 1
    assert [words for role, words in branch(conversation) if role == "user"] == ["Hello?", "And otherwise?"]


async def test_a_system_message_goes_along(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """In front of the prompt, in the same request; a developer's is one too."""
    await complete(client, {"role": "developer", "content": "Be brief."}, user("Hello?"))
    assert [sent(asked) for asked in asks(chatgpt)] == [[("system", "Be brief."), ("user", "Hello?")]]


async def test_a_history_with_a_system_message_is_known_again(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """It was sent once, and is part of what the next request is recognised by."""
    system = {"role": "system", "content": "Be brief."}
    first = content(await complete(client, system, user("Hello?")))
    await complete(client, system, user("Hello?"), assistant(first), user("And then?"))
    assert len(chatgpt.alice.conversations) == 1
    assert sent(asks(chatgpt)[1]) == [("user", "And then?")]


async def test_an_unknown_history_is_a_new_conversation(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """All of it goes upstream in one request, and is there for the next."""
    told = [user("Who are you?"), assistant("A parrot."), user("Since when?")]
    first = content(await complete(client, *told))
    await complete(client, *told, assistant(first), user("Really?"))
    (conversation,) = chatgpt.alice.conversations
    assert sent(asks(chatgpt)[0]) == [("user", "Who are you?"), ("assistant", "A parrot."), ("user", "Since when?")]
    assert [words for _, words in branch(conversation)][:3] == ["Who are you?", "A parrot.", "Since when?"]
    assert sent(asks(chatgpt)[1]) == [("user", "Really?")]


async def test_the_same_prompt_twice_is_two_conversations(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """With no answer in it a history says nothing about where it belongs."""
    for _ in range(2):
        await complete(client, user("Hello?"))
    assert len(chatgpt.alice.conversations) == 2


async def test_an_answer_stopped_before_its_first_word_is_left_out(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A client keeps an empty turn of it; upstream is told none."""
    await complete(client, user("Hello?"), assistant(""), user("Hello?"))
    assert sent(asks(chatgpt)[0]) == [("user", "Hello?"), ("user", "Hello?")]


# ------------------------------------------------------------------------------------------------------------- errors


async def test_a_malformed_request_is_400(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """In OpenAI's shape, before anything is asked."""
    refused = await complete(client, user("Hello?"), n=2)
    assert (refused.status, refused.json["error"]) == (
        400,
        {
            "message": "n must be 1: there is one answer to a prompt",
            "type": "invalid_request_error",
            "param": "n",
            "code": "bad_request",
        },
    )
    assert asks(chatgpt) == []


async def test_an_unknown_model_is_not_found(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """404 `model_not_found`, as OpenAI answers, with the names that there are."""
    refused = await complete(client, user("Hello?"), model="gpt-9000")
    assert (refused.status, refused.json["error"]["code"]) == (404, "model_not_found")
    assert "gpt-4o" in refused.json["error"]["message"]
    assert asks(chatgpt) == []


@pytest.mark.parametrize("status", ["500", "429"])
async def test_a_spent_budget_is_429(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, status: str
) -> None:
    """Whatever the other routes answer then; with the time to wait, and word that a retry is of no use."""
    settings = {"rate_limit__requests_per_hour": "2", "rate_limit__exceeded_status": status}
    async with open_house(tmp_path, chatgpt, base_url, clock, **settings) as house:
        await complete(house.client, user("Hello?"))
        refused = await complete(house.client, user("Hello?"))
    assert refused.status == 429
    assert (refused.json["error"]["type"], refused.json["error"]["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert (refused.headers["Retry-After"], refused.headers["x-should-retry"]) == ("3600", "false")


@pytest.mark.parametrize(
    ("error", "told", "words"),
    [
        ("hourly_limit", (429, "rate_limit_error"), "Too many requests in 1 hour"),
        ("model_cap", (429, "rate_limit_error"), "cap"),
        ("bad_token", (401, "authentication_error"), "upstream does not accept the access token"),
        ("html_403", (502, "server_error"), "program"),
        ("invalid", (400, "invalid_request_error"), "upstream finds the request wrong"),
    ],
)
async def test_upstreams_words_are_in_the_message(
    client: Client, chatgpt: SimulatedChatGPT, error: str, told: tuple[int, str], words: str
) -> None:
    """As text: clients show the message, and nothing else of the error."""
    chatgpt.fault("conversation", error=error)
    refused = await complete(client, user("Hello?"))
    assert (refused.status, refused.json["error"]["type"]) == told
    assert words in refused.json["error"]["message"]
    assert refused.headers["x-should-retry"] == "false"


async def test_without_a_key_nothing_is_answered(client: Client) -> None:
    """401 in OpenAI's shape, with the challenge."""
    refused = await complete(client.as_(None), user("Hello?"))
    assert (refused.status, refused.json["error"]["type"]) == (401, "authentication_error")
    assert refused.json["error"]["code"] == "access_token_required"
    assert "WWW-Authenticate" in refused.headers


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/embeddings", 404, "not_found"),
        ("GET", "/v1", 404, "not_found"),
        ("GET", "/v1/", 404, "not_found"),
        ("GET", PATH, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_served_is_told_in_openais_shape(
    client: Client, method: str, path: str, status: int, code: str
) -> None:
    """Paths that are not there, and methods that they do not have."""
    refused = await client.request(method, path)
    assert (refused.status, refused.json["error"]["code"]) == (status, code)
    assert refused.json["error"]["type"] == "invalid_request_error"
    assert ("Allow" in refused.headers) == (status == 405)


async def test_other_paths_keep_their_own_shape(client: Client) -> None:
    """Only what is below /v1 speaks OpenAI's protocol."""
    assert (await client.get("/v1x")).json == {"error": "not found", "code": "not_found"}


async def test_a_fault_of_ours_is_opaque(house: House) -> None:
    """500 in OpenAI's shape; what it was stands in the log alone, and no client tries it again."""
    await house.client.get("/budget")
    with closing(sqlite3.connect(house.mirror.path)) as connection:
        connection.execute("alter table model_list rename to mislaid")
        connection.commit()
    failed = await house.client.get("/v1/models")
    assert (failed.status, failed.headers["x-should-retry"]) == (500, "false")
    said = "something went wrong here; the log says what"
    assert failed.json == {"error": {"message": said, "type": "server_error", "param": None, "code": "internal"}}


async def test_a_large_body_is_refused_in_openais_shape(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """413, where the histories of a client have outgrown what is allowed."""
    async with open_house(tmp_path, chatgpt, base_url, clock, server__max_body_bytes="2000") as house:
        refused = await complete(house.client, user("x" * 3000))
    assert (refused.status, refused.json["error"]["code"]) == (413, "too_large")


async def test_an_answer_that_is_only_an_image_is_gone_on_from(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """What has no words here has none at the client: the next message goes into the same conversation."""
    drawn = chatgpt.alice.add_conversation("A cat", [("Draw a cat.", "")])
    await client.get(f"/conversations/{drawn.id}/messages")
    answer = await complete(
        client, user("Draw a cat."), {"role": "assistant", "content": None}, user("Another."), model="gpt-5"
    )
    assert answer.headers["X-Conversation-Id"] == drawn.id
    assert sent(asks(chatgpt)[-1]) == [("user", "Another.")]


async def test_what_is_refused_before_any_route_has_openais_shape_too(client: Client) -> None:
    """An `Expect` that nobody knows is told as OpenAI's clients read errors."""
    answer = await complete(client, user("Hello?"), headers={"Expect": "wonders"})
    assert answer.status == 417
    assert answer.json["error"]["code"] == "expectation_failed"
