# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulated ChatGPT fails as it is told and remembers what arrived: its knobs, from Python and over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from chatgpt_rest.upstream.simulated import NAMED_ERRORS, STREAM_FAULTS, BadKnob, SimulatedChatGPT, answer_to
from tests.upstream.simulated_client import NOON, PROMPT_ID, Client, Clock, Reply, asked, part


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def chatgpt(clock: Clock) -> SimulatedChatGPT:
    """A simulated ChatGPT without conversations."""
    return SimulatedChatGPT(now=clock, conversations=False)


@pytest.fixture
async def client(chatgpt: SimulatedChatGPT) -> AsyncIterator[Client]:
    """Alice's client of it, over HTTP."""
    async with chatgpt.serving() as base, aiohttp.ClientSession() as session:
        yield Client(session, base, chatgpt.alice.token())


# Which requests a fault befalls


async def test_a_fault_matches_method_path_and_account(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """Only what matches all three is refused; the query does not take part."""
    chatgpt.fault("conversation*", method="get", account=chatgpt.bob.user_id, status=500)
    bob = chatgpt.bob.token()
    assert (await client.ask("GET", "conversations?limit=5", token=bob)).status == 500
    assert (await client.ask("GET", "conversations?limit=5")).status == 200
    assert (await client.ask("PATCH", "conversations", {"is_visible": False}, token=bob)).status == 200
    assert (await client.ask("GET", "models", token=bob)).status == 200


async def test_a_fault_spares_the_first_and_stops_after_some(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """With after=2 and times=1 exactly the third request fails."""
    fault = chatgpt.fault("models", status=503, after=2, times=1)
    assert [(await client.ask("GET", "models")).status for _ in range(5)] == [200, 200, 503, 200, 200]
    assert (fault.seen, fault.applied) == (5, 1)


async def test_the_newest_fault_wins_until_faults_are_cleared(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """Of several that apply the last one turned on decides; cleared, none does."""
    chatgpt.fault(status=500)
    chatgpt.fault(status=502)
    assert (await client.ask("GET", "models")).status == 502
    chatgpt.clear_faults()
    assert (await client.ask("GET", "models")).status == 200


# What is answered instead


@pytest.mark.parametrize("name", sorted(NAMED_ERRORS))
async def test_errors_can_be_called_by_name(chatgpt: SimulatedChatGPT, client: Client, name: str) -> None:
    """Each named error has the status, type and body that upstream gives it."""
    chatgpt.fault(error=name)
    reply = await client.ask("GET", "conversations")
    error = NAMED_ERRORS[name]
    assert (reply.status, reply.body.decode()) == (error.status, error.text)
    assert reply.headers["Content-Type"].startswith(error.content_type)


async def test_the_bot_check_is_a_page(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """The CDN's 403 is HTML, not JSON."""
    chatgpt.fault(error="html_403")
    reply = await client.ask("GET", "conversations")
    assert (reply.status, reply.headers["Content-Type"]) == (403, "text/html; charset=utf-8")
    assert reply.body.startswith(b"<!DOCTYPE html>")


async def test_status_body_type_and_headers_can_be_chosen(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """What a fault says goes out as it is; the same limit with status 400 is one override away."""
    chatgpt.fault(status=418, body="short and stout", content_type="text/x-teapot", headers={"Retry-After": "7"})
    reply = await client.ask("GET", "models")
    assert (reply.status, reply.body, reply.headers["Retry-After"]) == (418, b"short and stout", "7")
    chatgpt.fault(error="hourly_limit", status=400)
    reply = await client.ask("GET", "models")
    assert (reply.status, reply.json) == (400, {"detail": "Too many requests in 1 hour. Try again later."})


async def test_a_limit_refuses_what_comes_after_n(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """The hourly limit comes with Retry-After where that is wanted, a model's cap says when it clears."""
    chatgpt.limit(after=2, retry_after_seconds=90)
    replies = [await client.ask("GET", "models") for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert replies[2].headers["Retry-After"] == "90"
    chatgpt.limit(after=0, clears_in=252, path="conversation")
    assert (await client.prompt()).json["detail"]["clears_in"] == 252


# How it travels


async def test_a_reset_before_the_answer(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """The connection is reset, and yet the request was recorded."""
    chatgpt.fault("models", reset=True)
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.ask("GET", "models")
    assert chatgpt.received("GET", "models") >= 1
    assert chatgpt.requests[-1].status is None


@pytest.mark.parametrize("path", ["models", "conversation"])
@pytest.mark.parametrize("knob", ["truncate_after_bytes", "reset_after_bytes"])
async def test_a_body_that_ends_early(chatgpt: SimulatedChatGPT, client: Client, path: str, knob: str) -> None:
    """A body or a stream that is cut in the middle is an error to its reader, not a shorter answer."""
    chatgpt.fault(path, **{knob: 100})
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
        await (client.prompt() if path == "conversation" else client.ask("GET", path))


async def test_a_dripping_body_arrives_whole(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """In small pieces comes the same answer as at once."""
    whole = await client.ask("GET", "models")
    chatgpt.fault("models", drip_bytes=64, drip_pause_seconds=0.001)
    assert (await client.ask("GET", "models")).body == whole.body


async def test_a_held_request_waits_for_its_release(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """It is recorded on arrival, before it is answered."""
    fault = chatgpt.fault("models", hold=True)
    waiting = asyncio.create_task(client.ask("GET", "models"))
    await fault.until_held()
    assert (chatgpt.received("GET", "models"), chatgpt.requests[-1].status) == (1, None)
    fault.release()
    assert (await waiting).status == 200


async def test_a_delay_comes_before_the_headers(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """The whole answer is late."""
    chatgpt.fault("models", delay_seconds=0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await client.ask("GET", "models")


# What is wrong with a stream


async def streamed(chatgpt: SimulatedChatGPT, client: Client, name: str, **knobs: Any) -> Reply:
    """The answer to a prompt under this fault."""
    chatgpt.fault("conversation", stream=name, **knobs)
    return await client.prompt("What is a fjord?")


async def test_every_stream_fault_is_survived_by_the_server(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """After each of them the account can ask again."""
    for name in STREAM_FAULTS - {"trailing_after_done"}:
        chatgpt.fault("conversation", stream=name, times=1, size_bytes=100_000)
        assert (await client.prompt()).status in {200, 204}
        assert (await client.prompt()).answers[-1]["end_turn"]


async def test_an_error_event_after_part_of_the_answer(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """The text so far, then a null message with an error in words of one's choice."""
    reply = await streamed(chatgpt, client, "error_event", after_events=3, error_text="Unusual activity")
    assert len(reply.events) == 1 + 3 + 1
    assert (reply.events[-1]["message"], reply.events[-1]["error"]) == (None, "Unusual activity")


async def test_an_error_event_alone(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """Nothing but the error and [DONE]."""
    reply = await streamed(chatgpt, client, "error_event_only")
    assert [event["message"] for event in reply.events] == [None]


async def test_a_stream_with_no_done(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """It ends in order, after as many events as asked for, unfinished."""
    reply = await streamed(chatgpt, client, "no_done", after_events=2)
    assert b"[DONE]" not in reply.body
    assert (len(reply.answers), reply.answers[-1]["end_turn"]) == (2, None)


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("204", 204, b""),
        ("empty", 200, b""),
        ("done_only", 200, b"data: [DONE]\n\n"),
        ("json_200", 200, b'{"detail": "Something went wrong"}'),
    ],
)
async def test_answers_without_an_event(
    chatgpt: SimulatedChatGPT, client: Client, name: str, status: int, body: bytes
) -> None:
    """Nothing that could be mistaken for an answer is in them."""
    reply = await streamed(chatgpt, client, name)
    assert (reply.status, reply.body) == (status, body)


async def test_a_page_instead_of_a_stream(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """HTML with status 200."""
    reply = await streamed(chatgpt, client, "html_200")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")


async def test_only_the_echo(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """The user's message and no other."""
    assert [event["message"]["id"] for event in (await streamed(chatgpt, client, "only_user_event")).events] == [
        PROMPT_ID
    ]


async def test_the_encoding_of_the_web_client(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """A frame that names it, then patches whose texts make up the answer."""
    reply = await streamed(chatgpt, client, "delta_encoding")
    assert reply.body.startswith(b'event: delta_encoding\ndata: "v1"\n\n')
    patches = [event for event in reply.events if isinstance(event, dict) and event["o"] == "append"]
    assert "".join(patch["v"] for patch in patches) == answer_to("What is a fjord?")


async def test_a_bare_line_of_error(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """After part of the answer comes a line that is no event, and no [DONE]."""
    reply = await streamed(chatgpt, client, "internal_server_error_line", after_events=1)
    assert (len(reply.answers), reply.body[-23:]) == (1, b"\nInternal Server Error\n")


@pytest.mark.parametrize("key", ["metadata", "author"])
async def test_nulls_where_objects_are_expected(chatgpt: SimulatedChatGPT, client: Client, key: str) -> None:
    """Every event of the answer lacks the object."""
    reply = await streamed(chatgpt, client, f"null_{key}")
    assert {json.dumps(event["message"][key]) for event in reply.events[1:]} == {"null"}


async def test_null_finish_details(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """The key is there and holds null, at the end too."""
    reply = await streamed(chatgpt, client, "null_finish_details")
    assert reply.answers[-1]["metadata"]["finish_details"] is None


async def test_missing_ids(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """The answer's events name neither message nor conversation."""
    reply = await streamed(chatgpt, client, "missing_ids")
    assert not any("id" in event["message"] or "conversation_id" in event for event in reply.events[1:])


async def test_parts_that_are_objects(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """The text comes after an image."""
    reply = await streamed(chatgpt, client, "non_string_parts")
    assert isinstance(reply.answers[-1]["content"]["parts"][0], dict)
    assert part(reply.answers[-1]) == answer_to("What is a fjord?")


async def test_data_with_no_space(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """The colon is followed by the JSON at once."""
    assert (await streamed(chatgpt, client, "no_space")).body.startswith(b'data:{"message"')


async def test_odd_separators_are_raw_and_stored(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """The three characters stand unescaped in the stream, and in the message that is kept."""
    reply = await streamed(chatgpt, client, "raw_separators")
    stored = part(chatgpt.alice.conversations[0].branch()[-1])
    for separator in "\u2028\u2029\u0085":
        assert separator.encode() in reply.body
        assert separator in stored
    assert part(reply.answers[-1]) == stored


async def test_one_event_over_many_lines(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """Joined by newlines, the data lines of an event are its JSON."""
    frames = (await streamed(chatgpt, client, "multi_line_data")).body.decode().split("\n\n")[:-2]
    texts = ["\n".join(line.removeprefix("data: ") for line in frame.split("\n")) for frame in frames]
    assert part(json.loads(texts[-1])["message"]) == answer_to("What is a fjord?")


async def test_tools_speak_between(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """A call and its result come between the echo and the answer, in the stream as in the tree."""
    reply = await streamed(chatgpt, client, "tool_messages_between")
    assert [event["message"]["author"]["role"] for event in reply.events[:3]] == ["user", "assistant", "tool"]
    assert reply.events[1]["message"]["recipient"] == "browser"
    branch = chatgpt.alice.conversations[0].branch()
    assert [message["author"]["role"] for message in branch] == ["system", "user", "assistant", "tool", "assistant"]


async def test_events_without_a_message(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """A title before the answer, moderation after it."""
    others = [event for event in (await streamed(chatgpt, client, "title_event")).events if "message" not in event]
    assert others[0]["type"] == "title_generation"
    assert "moderation_response" in others[1]


async def test_a_huge_line(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """One line is as long as asked for."""
    reply = await streamed(chatgpt, client, "huge_line", size_bytes=500_000)
    assert max(map(len, reply.body.split(b"\n"))) > 500_000


async def test_a_stream_that_does_not_end(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """After [DONE] more keeps coming; the account may ask again meanwhile."""
    chatgpt.fault("conversation", stream="trailing_after_done", times=1)
    async with client.opened("Hello") as response:
        async for line in response.content:
            if line == b"data: [DONE]\n":
                break
        assert (await client.prompt()).status == 200
        assert await response.content.readline()
        assert (await response.content.readline()).startswith(b": still here")


# What arrived


async def test_requests_are_recorded_as_they_came(chatgpt: SimulatedChatGPT, client: Client, clock: Clock) -> None:
    """Order, method, raw path with query, account, time, status, headers and body."""
    await client.ask("GET", "conversation/a%2Fb?x=1")
    clock.seconds += 5
    await client.prompt("Hi")
    first, second = chatgpt.requests
    assert (first.sequence, first.method, first.path) == (1, "GET", "/backend-api/conversation/a%2Fb?x=1")
    assert (first.account, first.arrived_at, first.status) == (chatgpt.alice.user_id, NOON, 404)
    assert (second.sequence, second.arrived_at, second.endpoint) == (2, NOON + 5, "conversation")
    assert second.headers["authorization"].startswith("Bearer ")
    assert json.loads(second.body) == asked("Hi")


async def test_requests_can_be_counted_by_what_they_were(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """Counting takes method, path and account; the knobs' own routes are not counted."""
    await client.ask("GET", "models")
    await client.ask("GET", "conversations?limit=1", token=chatgpt.bob.token())
    await client.knob("GET", "/simulated/requests")
    await client.knob("GET", "/")
    assert chatgpt.received() == 2
    assert chatgpt.received("GET", "conv*") == 1
    assert chatgpt.received(account=chatgpt.bob.user_id) == 1
    assert chatgpt.received("POST") == 0


# The knobs over HTTP


async def test_the_index_lists_every_route(client: Client) -> None:
    """What the index names is there."""
    index = (await client.knob("GET", "/")).json
    for method, path in (line.split() for line in index if "/simulated/" in line):
        reply = await client.knob(method, path.replace("{id}", "1"), {})
        assert reply.status != 405
        assert reply.status != 404 or reply.json["error"] == "there is no such fault"


async def test_faults_are_turned_on_and_off_over_http(client: Client) -> None:
    """Added, listed with what they have seen, removed one by one or all at once."""
    made = (await client.knob("POST", "/simulated/faults", {"path": "models", "status": 502})).json
    assert (await client.ask("GET", "models")).status == 502
    listed = (await client.knob("GET", "/simulated/faults")).json["faults"]
    assert [(fault["id"], fault["path"], fault["applied"]) for fault in listed] == [(made["id"], "models", 1)]
    assert (await client.knob("DELETE", f"/simulated/faults/{made['id']}")).status == 204
    assert (await client.knob("DELETE", f"/simulated/faults/{made['id']}")).status == 404
    await client.knob("POST", "/simulated/faults", {"error": "html_403"})
    await client.knob("DELETE", "/simulated/faults")
    assert (await client.ask("GET", "models")).status == 200


@pytest.mark.parametrize("path", ["models", "/models", "/backend-api/models", "/mod*"])
async def test_a_path_is_taken_as_it_was_seen(client: Client, path: str) -> None:
    """Over HTTP a fault's path may begin where the route does, with a slash, or at the root."""
    made = await client.knob("POST", "/simulated/faults", {"path": path, "status": 502})
    assert made.json["path"] in {"models", "mod*"}
    assert (await client.ask("GET", "models")).status == 502
    assert (await client.ask("GET", "conversations")).status == 200


@pytest.mark.parametrize(
    ("path", "knobs", "field"),
    [
        ("faults", {"status": "500"}, "status"),
        ("faults", {"status": 99}, "status"),
        ("faults", {"stream": "nonsense"}, "stream"),
        ("faults", {"error": "nonsense"}, "error"),
        ("faults", {"delay_seconds": -1}, "delay_seconds"),
        ("faults", {"reset": 1}, "reset"),
        ("faults", {"headers": {"a": 1}}, "headers"),
        ("faults", {"drip_bytes": 0}, "drip_bytes"),
        ("faults", {"tiems": 3}, "tiems"),
        ("faults", [], "body"),
        ("faults", None, "body"),
        ("limits", {"after": "3"}, "after"),
        ("limits", {"often": 3}, "often"),
        ("accounts", {}, "name"),
        ("accounts", {"name": "Eve", "user_id": 7}, "user_id"),
        ("tokens", {"account": "nobody"}, "account"),
        ("tokens", {"account": "Alice Winter", "expires_in_seconds": "soon"}, "expires_in_seconds"),
        ("tokens/revoke", {}, "access_token"),
    ],
)
async def test_a_knob_turned_wrongly_is_named(client: Client, path: str, knobs: Any, field: str) -> None:
    """Bad input is answered 400 with the field that is wrong."""
    reply = await client.knob("POST", f"/simulated/{path}", knobs)
    assert (reply.status, reply.json["field"]) == (400, field)


@pytest.mark.parametrize("settings", [{"times": "sometimes"}, {"event_pause_seconds": -1}, {"colour": "red"}])
async def test_a_setting_of_no_sense_is_named(client: Client, settings: dict[str, Any]) -> None:
    """The settings refuse what they do not know, too."""
    reply = await client.knob("PATCH", "/simulated/settings", settings)
    assert (reply.status, reply.json["field"]) == (400, next(iter(settings)))


def test_a_fault_of_no_sense_is_refused_in_python(chatgpt: SimulatedChatGPT) -> None:
    """The same check guards the tests themselves."""
    with pytest.raises(BadKnob, match="unknown"):
        chatgpt.fault("models", statsu=500)


async def test_accounts_and_tokens_over_http(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """An account can be added and used, its tokens issued, found expired and revoked."""
    carol = (await client.knob("POST", "/simulated/accounts", {"name": "Carol", "conversations": 3})).json
    assert len((await client.ask("GET", "conversations", token=carol["access_token"])).json["items"]) == 3
    names = [account["name"] for account in (await client.knob("GET", "/simulated/accounts")).json["accounts"]]
    assert names == ["Alice Winter", "Bob Larsen", "Carol"]
    expired = {"account": carol["user_id"], "expires_in_seconds": -1}
    token = (await client.knob("POST", "/simulated/tokens", expired)).json["access_token"]
    assert (await client.ask("GET", "models", token=token)).json["detail"]["code"] == "token_expired"
    await client.knob("POST", "/simulated/tokens/revoke", {"access_token": carol["access_token"]})
    assert (await client.ask("GET", "models", token=carol["access_token"])).status == 401
    assert (await client.knob("POST", "/simulated/accounts", {"name": "X", "user_id": carol["user_id"]})).status == 400


async def test_a_limit_over_http(client: Client) -> None:
    """So many go through, the rest are refused in the words given."""
    await client.knob("POST", "/simulated/limits", {"after": 1, "text": "Enough.", "status": 400})
    assert (await client.ask("GET", "models")).status == 200
    refused = await client.ask("GET", "models")
    assert (refused.status, refused.json) == (400, {"detail": "Enough."})


async def test_the_log_is_read_and_forgotten_over_http(client: Client) -> None:
    """It can be narrowed, and shows no token."""
    await client.ask("GET", "models")
    await client.ask("GET", "conversations")
    log = await client.knob("GET", "/simulated/requests?path=conv*")
    assert (log.json["count"], log.json["requests"][0]["path"]) == (1, "/backend-api/conversations")
    assert b"Bearer" not in log.body
    await client.knob("DELETE", "/simulated/requests")
    assert (await client.knob("GET", "/simulated/requests")).json["count"] == 0


async def test_reset_restores_the_start(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """Conversations, accounts, faults, settings and the log are as they were; tokens stay valid."""
    dora = chatgpt.add_account("Dora").token()
    chatgpt.fault("models", status=500)
    await client.prompt()
    await client.knob("PATCH", "/simulated/settings", {"times": "naive"})
    await client.knob("POST", "/simulated/reset")
    assert (chatgpt.received(), chatgpt.alice.conversations, len(list(chatgpt.accounts))) == (0, [], 2)
    assert (await client.knob("GET", "/simulated/settings")).json["times"] == "mixed"
    assert (await client.ask("GET", "models")).status == 200
    assert (await client.ask("GET", "models", token=dora)).status == 401


async def test_events_can_come_with_pauses(clock: Clock) -> None:
    """With a pause the answer looks alive, and is the same."""
    chatgpt = SimulatedChatGPT(now=clock, conversations=False, event_pause_seconds=0.001)
    async with chatgpt.serving() as base, aiohttp.ClientSession() as session:
        reply = await Client(session, base, chatgpt.alice.token()).prompt("Hi")
    assert part(reply.answers[-1]) == answer_to("Hi")
