# SPDX-License-Identifier: GPL-2.0-or-later
"""An OpenAI API as upstream: what is sent, what comes of it, and every way in which it fails."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest import chatgpt_json, errors
from chatgpt_rest.errors import UnknownModel, UpstreamError
from chatgpt_rest.model import Completeness, Model, Question, Secret, SentMessage, Turn
from chatgpt_rest.upstream.openai_answer import CompletionAnswer
from chatgpt_rest.upstream.openai_api import OpenAIUpstream
from chatgpt_rest.upstream.openai_events import ChunkReader
from chatgpt_rest.upstream.protocol import Answer, Caller
from chatgpt_rest.upstream.simulated import Reply, SimulatedOpenAI
from tests.house import NOON, ManualClock
from tests.upstream.far_end import (
    PROMPT_ID,
    RawUpstream,
    RecordingGate,
    answering,
    chunked,
    closed_port,
    reply,
)


@pytest.fixture
def api() -> SimulatedOpenAI:
    """An API with two models."""
    return SimulatedOpenAI()


@pytest.fixture
async def base_url(api: SimulatedOpenAI) -> AsyncIterator[str]:
    """Where it listens."""
    async with api.serving() as url:
        yield url


@pytest.fixture
def gate() -> RecordingGate:
    """The gate of the account that asks."""
    return RecordingGate()


@pytest.fixture
def me(api: SimulatedOpenAI, gate: RecordingGate) -> Caller:
    """Who asks, with the key that the API accepts."""
    return Caller("me", Secret(api.key), gate)


@pytest.fixture
async def upstream(base_url: str, api: SimulatedOpenAI, gate: RecordingGate) -> AsyncIterator[OpenAIUpstream]:
    """The adapter. Whatever a test does with it, the tokens taken are the requests received, each of which arrived."""
    adapter = OpenAIUpstream(base_url=base_url, clock=ManualClock(), answer_timeout_seconds=20)
    yield adapter
    await adapter.aclose()
    assert len(gate.outcomes) == len(api.received)


def question(prompt: str = "Hello?", **more: Any) -> Question:
    """A question to a model that there is."""
    told: dict[str, Any] = {"conversation_id": "c-1", "parent_id": None, "model": "gpt-large", **more}
    return Question(PROMPT_ID, prompt, **told)


async def asked(upstream: OpenAIUpstream, me: Caller, what: Question | None = None) -> tuple[Answer, list[str]]:
    """The answer, and the texts that iterating over it gave."""
    async with upstream.ask(me, what or question()) as answer:
        return answer, [text async for text in answer]


async def refused(upstream: OpenAIUpstream, me: Caller) -> errors.MirrorError:
    """What asking raises."""
    with pytest.raises(errors.MirrorError) as raised:
        await asked(upstream, me)
    return raised.value


def message(answer: Answer) -> dict[str, Any]:
    """The one message that an answer consists of."""
    (node,) = answer.nodes()
    assert node.message is not None
    found: dict[str, Any] = json.loads(node.message)
    return found


# -------------------------------------------------------------------------------------------------------- what is sent


async def test_the_whole_branch_is_sent_and_then_the_prompt(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """History, what goes along, the prompt: in this order, each with its role."""
    history = (Turn("system", "Be brief."), Turn("user", "One?"), Turn("assistant", "1"))
    await asked(upstream, me, question("Three?", history=history, before=(SentMessage("b", "user", "Two?"),)))
    assert api.asked == [
        [("system", "Be brief."), ("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("user", "Three?")]
    ]


async def test_an_answer_of_which_nothing_came_is_not_sent(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """Some servers refuse a message without words."""
    await asked(upstream, me, question("Two?", history=(Turn("user", "One?"), Turn("assistant", ""))))
    assert api.asked == [[("user", "One?"), ("user", "Two?")]]


async def test_half_a_character_in_a_history_is_replaced(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """An imported message may hold a lone surrogate, which no request can."""
    await asked(upstream, me, question("a\ud83d", history=(Turn("user", "\udc00b"),)))
    assert api.asked == [[("user", "\ufffdb"), ("user", "a\ufffd")]]


async def test_the_machine_is_not_told_of(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the package's headers about system and Python leave, nor those that the environment would add."""
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/hunter2")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: hunter2")
    await asked(upstream, me)
    await upstream.models(me)
    for request in api.received:
        assert {name.lower() for name in request.headers} <= {
            "host", "accept", "accept-encoding", "authorization", "content-length", "content-type", "user-agent"
        }  # fmt: skip
        assert re.fullmatch(r"chatgpt_rest/[\d.]+\S*", request.headers["User-Agent"])
        assert request.headers["Authorization"] == f"Bearer {api.key}"
        assert "hunter2" not in repr(request)


async def test_one_token_is_taken_for_each_request(upstream: OpenAIUpstream, me: Caller, gate: RecordingGate) -> None:
    """Under a path without ids, before it leaves; its arrival is reported with the status."""
    await asked(upstream, me)
    await upstream.models(me)
    assert gate.taken == ["POST chat/completions", "GET models"]
    assert gate.outcomes == [200, 200]


async def test_without_a_token_nothing_leaves(upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller) -> None:
    """A gate that gives none is heard before anything is sent."""
    poor = Caller("me", me.token, RecordingGate(tokens=0))
    with pytest.raises(errors.BudgetSpent):
        await asked(upstream, poor)
    assert api.received == []


@pytest.mark.parametrize("model", [None, "auto"])
async def test_a_model_has_to_be_named(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, model: str | None
) -> None:
    """The API has none of its own choosing, and asking for nothing costs no request."""
    with pytest.raises(UnknownModel, match="name one"):
        await asked(upstream, me, question(model=model))
    assert api.received == []


async def test_a_continuation_is_refused_without_a_request(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """The API would begin another answer."""
    with pytest.raises(errors.UpstreamRejected, match="cannot go on"):
        await asked(upstream, me, question("", parent_id="a", is_continuation=True))
    assert api.received == []


async def test_a_server_that_does_not_count_tokens_is_asked_without(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, gate: RecordingGate
) -> None:
    """The refusal of that option costs one request, once; the answer comes all the same."""
    api.knows_stream_options = False
    first, _ = await asked(upstream, me)
    second, _ = await asked(upstream, me)
    assert first.is_complete
    assert second.is_complete
    assert gate.outcomes == [400, 200, 200]
    assert "usage" not in message(first)["metadata"]


# -------------------------------------------------------------------------------------------------------- what comes


async def test_the_text_grows_piece_by_piece(upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller) -> None:
    """Each text begins with the one before."""
    api.replies.append(Reply("One two  three\nfour"))
    answer, texts = await asked(upstream, me)
    assert texts[-1] == "One two  three\nfour"
    assert all(after.startswith(before) for before, after in pairwise(texts))
    assert answer.is_complete


async def test_the_answer_is_a_message_of_chatgpts_shape(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """The mirror, the export and the pages read it as any other one."""
    api.replies.append(Reply("Yes.", model="gpt-large-2026-01-01"))
    answer, _ = await asked(upstream, me)
    (node,) = answer.nodes()
    assert node.parent == PROMPT_ID
    assert node.completeness is Completeness.COMPLETE
    assert node.create_time == NOON
    told = message(answer)
    assert told["author"]["role"] == "assistant"
    assert chatgpt_json.text(told) == "Yes."
    assert not chatgpt_json.is_hidden(told)
    assert (told["status"], told["end_turn"], told["recipient"]) == ("finished_successfully", True, "all")
    assert told["metadata"] == {
        "model_slug": "gpt-large-2026-01-01",
        "finish_details": {"type": "stop"},
        "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8},
    }
    assert node.id == told["id"] == answer.message_id


async def test_a_new_conversation_is_named_here(upstream: OpenAIUpstream, me: Caller) -> None:
    """The API has no names for any; one that has a name keeps it."""
    new, _ = await asked(upstream, me, question(conversation_id=None))
    known, _ = await asked(upstream, me, question(conversation_id="c-7"))
    assert new.conversation_id is not None
    assert chatgpt_json.is_id(new.conversation_id)
    assert known.conversation_id == "c-7"


@pytest.mark.parametrize(("finish", "told"), [("stop", "stop"), ("length", "max_tokens"), ("content_filter",) * 2])
async def test_the_finish_is_told_in_chatgpts_words(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, finish: str, told: str
) -> None:
    """What the API calls `length` is `max_tokens` here."""
    api.replies.append(Reply(finish=finish))
    answer, _ = await asked(upstream, me)
    assert answer.finish == told
    assert answer.is_complete


@pytest.mark.parametrize(
    ("told", "is_complete"),
    [(Reply("a b", finish=None), True), (Reply("a b", says_done=False), True),
     (Reply("a b", finish=None, says_done=False), False)],
)  # fmt: skip
async def test_an_answer_is_whole_where_its_end_is_said(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, told: Reply, is_complete: bool
) -> None:
    """`[DONE]` or a finish will do; a stream that merely ends is an answer that broke off."""
    api.replies.append(told)
    answer, texts = await asked(upstream, me)
    assert texts[-1] == "a b"
    assert answer.is_complete is is_complete
    assert answer.nodes()[0].completeness is (Completeness.COMPLETE if is_complete else Completeness.PARTIAL)


async def test_a_model_that_declines_says_so(upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller) -> None:
    """Its words stand where the answer would."""
    chunks = [{"choices": [{"delta": {"refusal": "I can't."}}]}, {"choices": [{"finish_reason": "stop"}]}]
    api.replies.append(Reply(raw=b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in chunks)))
    answer, texts = await asked(upstream, me)
    assert texts == ["I can't."]
    assert answer.is_complete


async def test_a_reader_that_leaves_ends_the_request(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """The API is not left writing for nobody."""
    api.replies.append(Reply("one two three", hold=asyncio.Event(), hold_after=1))
    async with upstream.ask(me, question()) as answer:
        assert await anext(aiter(answer)) == "one "
    async with asyncio.timeout(5):
        await api.received[0].was_left.wait()
    assert not answer.is_complete


async def test_connections_are_used_again(me: Caller) -> None:
    """What follows `[DONE]` is read, so that the next request needs no new one."""
    chunk = b'data: {"choices": [{"delta": {"content": "Yes."}, "finish_reason": "stop"}]}\n\n'
    async with answering(chunked(chunk, b"data: [DONE]\n\n")).serving() as far:
        upstream = adapter(far)
        for _ in range(3):
            await asked(upstream, me)
        await upstream.aclose()
        assert far.connections == 1


async def test_the_models_are_told_in_upstreams_order(upstream: OpenAIUpstream, me: Caller) -> None:
    """By the ids that a request names them by."""
    assert await upstream.models(me) == (Model("gpt-large"), Model("gpt-small"))


async def test_what_a_server_tells_of_its_models_is_taken_where_it_fits(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """Names and windows of some servers; items that are none are passed over."""
    items = [{"id": "a", "name": "A", "context_length": 9}, {"id": "b", "max_model_len": 8, "name": 3}, {"id": 1}, {}]
    api.replies.append(Reply(body={"object": "list", "data": items}))
    assert await upstream.models(me) == (Model("a", "A", 9), Model("b", None, 8))


@pytest.mark.parametrize("body", ["<html>", {"data": 3}, [], {"models": []}, "{"])
async def test_a_list_that_is_none_is_told_as_broken(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, body: object
) -> None:
    """Whatever stands in its place."""
    api.replies.append(Reply(body=body))
    with pytest.raises(errors.UpstreamBroken, match="is base_url right"):
        await upstream.models(me)


# --------------------------------------------------------------------------------------------------- what goes wrong


def error(code: str | None, text: str = "No.", kind: str = "x") -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}


REFUSALS: list[tuple[int, object, type[errors.MirrorError], str]] = [
    (400, error("context_length_exceeded"), errors.UpstreamRejected, "upstream_rejected"),
    (400, error(None, "invalid model ID"), UnknownModel, "model_not_found"),
    (402, error(None, "Insufficient Balance"), errors.UpstreamLimit, "upstream_rate_limit"),
    (403, error("unsupported_country_region_territory"), errors.UpstreamBroken, "upstream_forbidden"),
    (403, "<html>", errors.UpstreamBroken, "upstream_forbidden"),
    (404, error(None, 'model "x" not found, try pulling it first'), UnknownModel, "model_not_found"),
    (404, {"detail": "Not Found"}, errors.UpstreamBroken, "upstream_unknown_path"),
    (404, "<html>", errors.UpstreamBroken, "upstream_unknown_path"),
    (408, error(None), errors.UpstreamSlow, "upstream_slow"),
    (422, {"detail": [{"msg": "field required"}]}, errors.UpstreamRejected, "upstream_rejected"),
    (429, error("rate_limit_exceeded"), errors.UpstreamLimit, "model_cap_exceeded"),
    (429, error("insufficient_quota"), errors.UpstreamLimit, "upstream_rate_limit"),
    (429, "<html>", errors.UpstreamLimit, "model_cap_exceeded"),
    (500, error("server_error"), errors.UpstreamBroken, "upstream_broken"),
    (503, "<html>", errors.UpstreamBroken, "upstream_broken"),
    (302, "", errors.UpstreamBroken, "upstream_broken"),
]


@pytest.mark.parametrize("case", REFUSALS)
async def test_each_refusal_has_its_meaning(
    upstream: OpenAIUpstream,
    api: SimulatedOpenAI,
    me: Caller,
    gate: RecordingGate,
    case: tuple[int, object, type[errors.MirrorError], str],
) -> None:
    """By status, code and words; the gate hears of it, if it says something of upstream, and nothing is sent twice."""
    status, body, kind, code = case
    api.replies.append(Reply(status=status, body=body))
    told = await refused(upstream, me)
    assert (type(told), told.code) == (kind, code)
    assert gate.outcomes == [status]
    assert gate.refusals == ([(told, "gpt-large")] if isinstance(told, UpstreamError) else [])


@pytest.mark.parametrize(
    ("told", "seconds"),
    [(("rate_limit_exceeded", {"Retry-After": "7"}), 7), (("rate_limit_exceeded", {}), 20),
     (("insufficient_quota", {}), 300), (("insufficient_quota", {"Retry-After": "60"}), 60)],
)  # fmt: skip
async def test_a_limit_tells_how_long_it_holds(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, told: tuple[str, dict[str, str]], seconds: int
) -> None:
    """As upstream says, else for a while that fits its kind."""
    code, headers = told
    api.replies.append(Reply(status=429, body=error(code), headers=headers))
    assert (await refused(upstream, me)).retry_after_seconds == seconds


async def test_a_key_that_is_refused_is_not_shown(upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller) -> None:
    """Not even the part of it that the API repeats."""
    wrong = Caller("me", Secret("sk-proj-hunter2-and-more"), me.gate)
    told = await refused(upstream, wrong)
    assert isinstance(told, errors.UpstreamRefusedToken)
    assert told.code == "api_key_refused"
    assert told.body is None
    assert len(api.received) == 1


async def test_a_key_that_comes_back_in_an_error_is_taken_out(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """Some servers repeat the request's headers."""
    api.replies.append(Reply(status=500, body={"error": {"message": f"Bearer {api.key}"}}))
    told = await refused(upstream, me)
    assert told.body == {"error": {"message": "Bearer [API key]"}}


async def test_a_key_in_the_streams_error_is_taken_out(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """There the whole of what it said is left out."""
    api.replies.append(Reply("one two", error_after=1, error={"message": api.key}))
    assert (await refused(upstream, me)).body is None


@pytest.mark.parametrize(
    ("told", "code"),
    [({"message": "x", "code": "server_error"}, "upstream_broken"), ("overloaded", "upstream_broken"),
     ({"message": "x", "type": "tokens", "code": "rate_limit_exceeded"}, "model_cap_exceeded"),
     ({"message": "x", "code": "insufficient_quota"}, "upstream_rate_limit")],
)  # fmt: skip
async def test_an_error_in_mid_stream_keeps_what_came(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, gate: RecordingGate, told: object, code: str
) -> None:
    """It is raised while iterating, told to the gate once, and the answer is partial."""
    api.replies.append(Reply("one two three", error_after=2, error=told))
    async with upstream.ask(Caller("me", Secret(api.key), gate), question()) as answer:
        with pytest.raises(UpstreamError) as raised:
            async for _ in answer:
                pass
    assert raised.value.code == code
    assert chatgpt_json.text(message(answer)) == "one two "
    assert not answer.is_complete
    assert len(gate.refusals) == 1


async def test_a_connection_that_breaks_keeps_what_came(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """The answer is partial, and nothing is sent again."""
    api.replies.append(Reply("one two three", reset_after=2))
    async with upstream.ask(me, question()) as answer:
        with pytest.raises(errors.UpstreamBroken):
            async for _ in answer:
                pass
    assert answer.nodes()[0].completeness is Completeness.PARTIAL
    assert len(api.received) == 1


async def test_a_connection_that_breaks_before_the_headers_is_not_tried_again(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """Nobody can tell whether the prompt was read."""
    api.replies.append(Reply(reset_after=0))
    assert (await refused(upstream, me)).code == "upstream_reset"
    assert len(api.received) == 1


async def test_an_answer_that_takes_too_long_ends(base_url: str, api: SimulatedOpenAI, me: Caller) -> None:
    """The deadline is for the whole of it."""
    api.replies.append(Reply("one two", hold=asyncio.Event(), hold_after=1))
    impatient = OpenAIUpstream(base_url=base_url, clock=ManualClock(), answer_timeout_seconds=0.2)
    assert isinstance(await refused(impatient, me), errors.UpstreamSlow)
    await impatient.aclose()


async def test_headers_that_take_too_long_end_it(base_url: str, api: SimulatedOpenAI, me: Caller) -> None:
    """The same deadline holds for them."""
    api.replies.append(Reply(hold=asyncio.Event()))
    impatient = OpenAIUpstream(base_url=base_url, clock=ManualClock(), answer_timeout_seconds=0.2)
    assert isinstance(await refused(impatient, me), errors.UpstreamSlow)
    await impatient.aclose()


async def test_no_connection_is_told_as_away(me: Caller, gate: RecordingGate) -> None:
    """Nothing was delivered, which is another thing than not to know."""
    upstream = OpenAIUpstream(base_url=f"http://127.0.0.1:{closed_port()}/v1/", clock=ManualClock())
    assert isinstance(await refused(upstream, me), errors.UpstreamAway)
    await upstream.aclose()
    assert gate.outcomes == ["upstream_away"]


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (b"", ("upstream_empty_answer", "empty answer")),
        (b"data: [DONE]\n\n", ("upstream_empty_answer", "empty answer")),
        (b"<html>Sign in</html>\n", ("upstream_broken", "is base_url right")),
        (b'{"choices": [{"message": {"content": "Yes."}}]}', ("upstream_broken", "is base_url right")),
        (b'{"error": {"message": "No.", "code": "insufficient_quota"}}', ("upstream_rate_limit", "credit")),
        (b"data: {\n\n", ("upstream_broken", "cannot be read")),
        (b"data: " + b"[" * 200 + b"]" * 200 + b"\n\n", ("upstream_broken", "cannot be read")),
    ],
)
async def test_a_success_that_is_no_answer_is_told_as_broken(
    upstream: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, stream: bytes, told: tuple[str, str]
) -> None:
    """Whatever stands in its place."""
    api.replies.append(Reply(raw=stream))
    raised = await refused(upstream, me)
    assert raised.code == told[0]
    assert told[1] in raised.text


async def test_a_refusal_without_end_is_not_read_to_its_end(me: Caller) -> None:
    """Its status says enough."""

    async def pour(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 65_536)
            await writer.drain()

    async with RawUpstream(pour).serving() as far:
        upstream = adapter(far)
        told = await refused(upstream, me)
        await upstream.aclose()
    assert isinstance(told, errors.UpstreamRejected)
    assert told.body is None


async def test_a_list_of_models_without_end_is_refused(me: Caller) -> None:
    """It is read to a bound that no true list comes near."""
    async with answering(reply(b'{"data": [' + b" " * (17 * 1024 * 1024) + b"]}")).serving() as far:
        upstream = adapter(far)
        with pytest.raises(errors.UpstreamBroken, match="cannot be read"):
            await upstream.models(me)
        await upstream.aclose()


@pytest.mark.parametrize("name", ["list_page", "list_projects", "list_project", "conversation", "edit", "delete"])
async def test_what_it_cannot_do_is_a_clear_error(upstream: OpenAIUpstream, me: Caller, name: str) -> None:
    """Who asks it for a conversation has made a mistake in this program."""
    with pytest.raises(NotImplementedError, match="keeps no conversations"):
        getattr(upstream, name)(me, "c-1")


def adapter(far: RawUpstream) -> OpenAIUpstream:
    """One that asks a server which answers in bytes."""
    return OpenAIUpstream(base_url=far.base_url, clock=ManualClock(), answer_timeout_seconds=20)


# ------------------------------------------------------------------------------------------------------------ streams

CHUNKS: list[Any] = [{"choices": [{"delta": {"content": text}}]} for text in ("Hé ", "\U0001f600", "\\n\n", "end")]


@given(st.lists(st.integers(0, 400), max_size=30), st.sampled_from([b"\n\n", b"\r\n\r\n", b"\n"]), st.booleans())
def test_a_stream_is_the_same_wherever_it_is_cut(cuts: list[int], end: bytes, is_escaped: bool) -> None:
    """Bytes come as the network pleases; servers write line ends and the last of them as they please, too."""
    whole = b": hello" + end + b"event: x" + end[: len(end) // 2 or 1]
    for chunk in CHUNKS:
        whole += b"data: " + json.dumps(chunk, ensure_ascii=is_escaped).encode() + end
    reader, found = ChunkReader(), list[object]()
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    for start, stop in pairwise(places):
        found += reader.feed(whole[start:stop])
    assert [*found, *reader.end()] == CHUNKS


def test_an_event_of_several_lines_is_one_chunk() -> None:
    """As the standard has it."""
    assert list(ChunkReader().feed(b'data: {"a":\ndata: 1}\n\n')) == [{"a": 1}]


def test_what_follows_the_end_is_not_looked_at() -> None:
    """`[DONE]` is the last word."""
    reader = ChunkReader()
    assert list(reader.feed(b'data: {"a": 1}\n\ndata: [DONE]\n\ndata: {"a": 2}\n\n')) == [{"a": 1}]
    assert reader.is_done
    assert list(reader.end()) == []


def test_a_line_beyond_reason_is_refused() -> None:
    """Memory is bounded, whatever a server sends."""
    reader = ChunkReader()
    assert list(reader.feed(b"x" * 8 * 1024 * 1024)) == []
    with pytest.raises(errors.UpstreamBroken, match="longer than any chunk"):
        list(reader.feed(b"x"))


def test_a_character_in_two_pieces_is_one() -> None:
    """JSON can cut an emoji between two chunks."""
    answer = CompletionAnswer(question(), ManualClock())
    for piece in ("a\ud83d", "\ude00b", "\ud83d"):
        answer.take({"choices": [{"delta": {"content": piece}}]})
    assert chatgpt_json.text(message(answer)) == "a\U0001f600b"


@pytest.mark.parametrize(
    "chunk",
    [None, 3, [], "x", {}, {"choices": None}, {"choices": []}, {"choices": [3]}, {"choices": {"delta": {}}},
     {"choices": [], "usage": {"prompt_tokens": 3}}],
)  # fmt: skip
def test_a_chunk_of_an_unknown_shape_is_passed_over(chunk: object) -> None:
    """It says nothing, and breaks nothing."""
    answer = CompletionAnswer(question(), ManualClock())
    answer.take(chunk)
    assert answer.nodes() == ()
    assert not answer.has_begun


@pytest.mark.parametrize(
    "choice", [{}, {"delta": None}, {"delta": 3}, {"delta": {"content": None}, "finish_reason": 3}]
)
def test_a_choice_without_words_is_a_beginning(choice: dict[str, Any]) -> None:
    """The first event names the role alone."""
    answer = CompletionAnswer(question(), ManualClock())
    answer.take({"choices": [choice], "model": 3, "usage": []})
    assert chatgpt_json.text(message(answer)) == ""
    assert not answer.is_complete


def test_no_secret_of_this_machine_is_in_the_environment_of_these_tests() -> None:
    """Else the tests above would prove nothing."""
    assert not [name for name in os.environ if name.startswith("OPENAI_")]
