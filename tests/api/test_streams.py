# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers as server-sent events over HTTP: asked for, joined, broken off, hung up on."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web

from chatgpt_rest.api.streams import follow
from chatgpt_rest.context import ASKING
from chatgpt_rest.listener import listening
from chatgpt_rest.live import LiveAsk
from chatgpt_rest.middleware import errors_middleware
from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT, answer_to
from tests.house import Client, House, make_config
from tests.shapes import message

EVENTS: Final = {"Accept": "text/event-stream"}
LONG: Final = "Tell me a lot"


class Events:
    """The events of one response, as a client that knows the protocol reads them."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def __aiter__(self) -> AsyncIterator[tuple[str, Any]]:
        """Each event's name and its JSON; comments have the name `:`."""
        name = ""
        async for line in self.response.content:
            field, _, value = line.decode().rstrip("\n").partition(":")
            if field == "event":
                name = value.strip()
            elif field == "data":
                yield name, json.loads(value)
            elif value:
                yield ":", value.strip()

    async def next(self) -> tuple[str, Any]:
        """One event, and the rest later."""
        async for event in self:
            return event
        raise AssertionError("the stream has ended")

    async def all(self) -> list[tuple[str, Any]]:
        return [event async for event in self]


@asynccontextmanager
async def streamed(
    client: Client, path: str = "/conversations/new", *, method: str = "POST", **options: Any
) -> AsyncIterator[Events]:
    """A request whose answer is read as it comes."""
    headers = {"Authorization": client.authorization or "", **EVENTS, **options.pop("headers", {})}
    if method == "POST":
        options.setdefault("json", {"prompt": LONG})
    async with (
        asyncio.timeout(30),
        client.session.request(method, client.address + path, headers=headers, **options) as response,
    ):
        yield Events(response)


def text_of(events: list[tuple[str, Any]]) -> dict[str, str]:
    """What a client that does what the events say holds of each message."""
    held: dict[str, str] = {}
    for name, data in events:
        if name == "delta":
            held[data["message_id"]] = held.get(data["message_id"], "") + data["text"]
        elif name == "replace":
            held[data["message_id"]] = data["text"]
    return held


async def messages(client: Client, conversation_id: str) -> Any:
    """What `GET messages` answers."""
    return (await client.get(f"/conversations/{conversation_id}/messages")).json


@pytest.fixture
async def groceries(client: Client, chatgpt: SimulatedChatGPT) -> SimConversation:
    """A conversation that the mirror holds."""
    conversation = chatgpt.alice.add_conversation("Groceries", [("What?", "Milk.")])
    await messages(client, conversation.id)
    return conversation


# ------------------------------------------------------------------------------------------------------- asked for


async def test_an_answer_comes_in_deltas_and_then_whole(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The deltas together are the message, which comes last and is what the mirror then reads."""
    async with streamed(client) as stream:
        assert (stream.response.status, stream.response.content_type) == (201, "text/event-stream")
        events = await stream.all()
    name, message = events[-1]
    assert (name, message["message"]) == ("message", answer_to(LONG))
    assert text_of(events) == {message["id"]: answer_to(LONG)}
    assert {name for name, _ in events[:-1]} == {"delta"}
    assert (await messages(client, message["conversation_id"]))[-1] == message
    assert chatgpt.received("POST", "conversation") == 1


async def test_an_ask_streams_as_a_new_conversation_does(client: Client, groceries: SimConversation) -> None:
    """`ask` gives the same events, and its header names the conversation."""
    async with streamed(client, f"/conversations/{groceries.id}/ask", json={"prompt": "Eggs?"}) as stream:
        assert stream.response.headers["X-Conversation-Id"] == groceries.id
        events = await stream.all()
    assert events[-1][1]["message"] == answer_to("Eggs?")
    assert {data["conversation_id"] for _, data in events} == {groceries.id}


@pytest.mark.parametrize(
    ("headers", "fields", "is_streamed"),
    [
        ({}, {"stream": True}, True),
        ({}, {"stream": "true"}, True),
        ({"Accept": "text/event-stream"}, {"stream": False}, False),
        ({"Accept": "application/json, text/event-stream;q=0.5"}, {}, True),
        ({"Accept": "*/*"}, {}, False),
        ({"Accept": "text/*"}, {}, False),
    ],
)
async def test_the_field_or_the_header_asks_for_a_stream(
    client: Client, headers: dict[str, str], fields: dict[str, Any], is_streamed: bool
) -> None:
    """`stream` decides where it is given, else `text/event-stream` by its name in Accept."""
    answer = await client.post("/conversations/new", json={"prompt": "Hello?", **fields}, headers=headers)
    assert answer.status == 201
    assert (answer.headers["Content-Type"].partition(";")[0] == "text/event-stream") == is_streamed


async def test_a_stream_that_is_neither_true_nor_false_is_refused(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The error names the field, and nothing is asked."""
    answer = await client.post("/conversations/new", json={"prompt": "Hello?", "stream": "maybe"})
    assert (answer.status, answer.json["error"]) == (400, 'stream must be "true" or "false"')
    assert chatgpt.received("POST") == 0


async def test_the_first_delta_comes_before_the_answer_is_whole(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A reader has what ChatGPT has said so far while it is still writing."""
    fault = chatgpt.fault("conversation", hold_after_events=2)
    async with streamed(client) as stream:
        name, delta = await stream.next()
        assert name == "delta"
        assert answer_to(LONG).startswith(delta["text"])
        assert delta["text"] != answer_to(LONG)
        fault.release()
        assert (await stream.all())[-1][0] == "message"


async def test_what_continues_a_cut_answer_continues_the_text(client: Client) -> None:
    """With `autocontinue` the deltas of all parts are one message without a seam."""
    prompt = f"{LONG} [[max_tokens:2]]"
    async with streamed(client, json={"prompt": prompt, "autocontinue": True}) as stream:
        events = await stream.all()
    assert list(text_of(events).values()) == [events[-1][1]["message"]]


async def test_a_continuation_that_says_nothing_repeats_nothing(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """An answer that was cut just at its end comes once, as the one message that it is."""
    silent = message("", id="continued", metadata={"finish_details": {"type": "stop"}}, end_turn=True)
    event = json.dumps({"message": silent, "conversation_id": "c1", "error": None})
    chatgpt.fault("conversation", after=1, body=f"data: {event}\n\ndata: [DONE]\n\n", content_type="text/event-stream")
    async with streamed(client, json={"prompt": f"{LONG} [[max_tokens:1]]", "autocontinue": True}) as stream:
        events = await stream.all()
    assert chatgpt.received("POST", "conversation") == 2
    assert (events[-1][0], events[-1][1]["id"]) == ("message", "continued")
    assert list(text_of(events).values()) == [events[-1][1]["message"]]


async def test_a_refusal_before_the_first_word_has_its_status(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Where nothing came of the ask, a client that streams is answered as one that does not."""
    chatgpt.fault("conversation", error="unusual_activity")
    answer = await client.post("/conversations/new", json={"prompt": "Hello?"}, headers=EVENTS)
    assert (answer.status, answer.json["code"]) == (502, "upstream_refuses_programs")


async def test_the_spent_budget_has_its_status(house: House, client: Client) -> None:
    """The limit is told with its status and when to come back."""
    while (await client.post("/conversations/new", json={"prompt": "Hello?"})).status == 201:
        pass
    answer = await client.post("/conversations/new", json={"prompt": "Hello?"}, headers=EVENTS)
    assert (answer.status, answer.json["error"]) == (500, "Rate limit exceeded")
    assert int(answer.headers["Retry-After"]) > 0


async def test_an_answer_that_breaks_off_ends_with_an_error(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """What came stays, the last event says what happened, and the mirror keeps the same words."""
    chatgpt.fault("conversation", stream="error_event", after_events=3)
    async with streamed(client) as stream:
        events = await stream.all()
    name, error = events[-1]
    assert (name, error["code"]) == ("error", "answer_incomplete")
    kept = (await messages(client, error["conversation_id"]))[-1]
    assert text_of(events) == {kept["id"]: kept["message"]}
    assert kept["is_partial"] is True


async def test_the_same_idempotency_key_streams_the_same_answer(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A retry is given the first answer, in one delta, and nothing is asked."""
    key = {"Idempotency-Key": "once"}
    async with streamed(client, headers=key) as stream:
        first = await stream.all()
    async with streamed(client, headers=key) as stream:
        second = await stream.all()
    assert second[-1] == first[-1]
    assert [name for name, _ in second] == ["delta", "message"]
    assert text_of(second) == text_of(first)
    assert chatgpt.received("POST", "conversation") == 1


async def test_what_the_assistant_says_before_its_tools_is_a_message_of_its_own(
    client: Client, chatgpt: SimulatedChatGPT
) -> None:
    """Calls of tools and their results are no deltas; the answer is."""
    chatgpt.fault("conversation", stream="tool_messages_between")
    async with streamed(client) as stream:
        events = await stream.all()
    assert text_of(events) == {events[-1][1]["id"]: answer_to(LONG)}


async def test_nobody_keeps_a_stream(client: Client) -> None:
    """Neither a cache nor a proxy's buffer."""
    async with streamed(client) as stream:
        assert stream.response.headers["Cache-Control"] == "no-store"
        assert stream.response.headers["X-Accel-Buffering"] == "no"


async def test_http_1_0_ends_a_stream_with_the_connection(client: Client) -> None:
    """Nothing else can mark its end there, so a client that would keep the connection is not left waiting."""
    host, _, port = client.address.removeprefix("http://").rpartition(":")
    body = json.dumps({"prompt": LONG, "stream": True}).encode()
    head = f"POST /conversations/new HTTP/1.0\r\nConnection: keep-alive\r\nAuthorization: {client.authorization}\r\n"
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    async with asyncio.timeout(10):  # half of what an idle connection is kept
        answer = await reader.read()
    writer.close()
    assert b"\r\nConnection: keep-alive\r\n" not in answer
    assert b"event: message" in answer


async def test_a_stream_that_fails_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fault of ours in mid-stream ends the connection inside the body: no second response is written into it."""

    async def frames() -> AsyncGenerator[bytes]:
        yield b"data: 1\n\n"
        raise LookupError("nobody foresaw this")

    async def answer(request: web.Request) -> web.StreamResponse:
        live = LiveAsk(conversation_id="c1", request_digest=b"")
        live.show("m1", "Hi.")
        return await follow(request, live, frames())

    app = web.Application(middlewares=[errors_middleware])
    app.router.add_get("/", answer)
    async with listening(app, make_config(tmp_path, "http://127.0.0.1:9/backend-api/").server) as listener:
        host, _, port = listener.address.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        async with asyncio.timeout(10):
            _, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert body == b"9\r\ndata: 1\n\n\r\n"
    assert "nobody foresaw this" in caplog.text


# -------------------------------------------------------------------------------------------------------- hang-ups


async def test_a_client_that_hangs_up_changes_nothing(
    client: Client, chatgpt: SimulatedChatGPT, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is written to its end, is there when somebody reads it, and the log has nothing to complain of."""
    fault = chatgpt.fault("conversation", hold_after_events=2)
    async with streamed(client) as stream:
        _, delta = await stream.next()
    fault.release()
    async with streamed(client, f"/conversations/{delta['conversation_id']}/stream", method="GET") as stream:
        if stream.response.status == 200:
            await stream.all()
    said = await messages(client, delta["conversation_id"])
    assert [message["message"] for message in said] == [LONG, answer_to(LONG)]
    assert chatgpt.received("POST", "conversation") == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_hang_up_before_the_first_word_is_no_fault(
    house: House, client: Client, chatgpt: SimulatedChatGPT, caplog: pytest.LogCaptureFixture
) -> None:
    """Who presses stop at once leaves nothing in the log, and the answer is written."""
    fault = chatgpt.fault("conversation", hold_after_events=0)
    asking = asyncio.create_task(client.post("/conversations/new", json={"prompt": LONG}, headers=EVENTS))
    await fault.until_held()
    asking.cancel()
    await asyncio.wait((asking,))
    fault.release()
    await house.app[ASKING].drain(30)
    await asyncio.sleep(0)
    assert [message["message"] for message in await messages(client, chatgpt.alice.conversations[0].id)][1:] == [
        answer_to(LONG)
    ]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_reader_can_join_an_answer_under_way(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Whoever joins reads it from its beginning, to the same end."""
    fault = chatgpt.fault("conversation", hold_after_events=3)
    async with streamed(client) as first:
        _, delta = await first.next()
        async with streamed(client, f"/conversations/{delta['conversation_id']}/stream", method="GET") as second:
            assert second.response.status == 200
            joined = [await second.next()]
            fault.release()
            joined += await second.all()
        rest = await first.all()
    assert text_of(joined) == text_of([("delta", delta), *rest]) == {joined[-1][1]["id"]: answer_to(LONG)}
    assert joined[-1] == rest[-1]
    assert chatgpt.received("POST", "conversation") == 1


async def test_where_no_answer_is_under_way_there_is_nothing_to_join(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """204 for a conversation that is here, 404 for one that is not; nothing goes upstream."""
    chatgpt.requests.clear()
    assert (await client.get(f"/conversations/{groceries.id}/stream")).status == 204
    assert (await client.get("/conversations/11111111-2222-3333-4444-555555555555/stream")).status == 404
    assert chatgpt.requests == []


async def test_another_account_cannot_join(house: House, client: Client, chatgpt: SimulatedChatGPT) -> None:
    """An answer under way is nobody's but the one's who asked."""
    fault = chatgpt.fault("conversation", hold_after_events=2)
    async with streamed(client) as stream:
        _, delta = await stream.next()
        joined = await house.client_of(chatgpt.bob).get(f"/conversations/{delta['conversation_id']}/stream")
        assert joined.status == 404
        fault.release()
        await stream.all()


async def test_head_of_a_stream_waits_for_nothing(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """HEAD gives the headers while the answer goes on."""
    fault = chatgpt.fault("conversation", hold_after_events=2)
    async with streamed(client) as stream:
        _, delta = await stream.next()
        head = await client.request("HEAD", f"/conversations/{delta['conversation_id']}/stream")
        assert (head.status, head.body) == (200, b"")
        fault.release()
        await stream.all()


async def test_the_end_of_the_server_lets_readers_finish(house: House, chatgpt: SimulatedChatGPT) -> None:
    """An answer under way when the server is told to stop comes to its end, for its reader too."""
    fault = chatgpt.fault("conversation", hold_after_events=2)
    async with streamed(house.client) as stream:
        await stream.next()
        draining = asyncio.create_task(house.app[ASKING].drain(30))
        refused = await house.client.post("/conversations/new", json={"prompt": "Hello?"}, headers=EVENTS)
        assert refused.status == 503
        fault.release()
        assert (await stream.all())[-1][0] == "message"
        await draining


async def test_the_end_of_the_server_tells_readers_what_is_kept(house: House, chatgpt: SimulatedChatGPT) -> None:
    """An answer that takes longer than the server may wait ends with an error that names what is kept."""
    chatgpt.fault("conversation", hold_after_events=2)
    async with streamed(house.client) as stream:
        _, delta = await stream.next()
        await house.app[ASKING].drain(0)
        name, error = (await stream.all())[-1]
    assert (name, error["code"], error["conversation_id"]) == ("error", "answer_incomplete", delta["conversation_id"])
