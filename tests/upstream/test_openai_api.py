# SPDX-License-Identifier: GPL-2.0-or-later
"""An OpenAI API as upstream: what is sent, what comes of it, and every way in which it fails."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest import chatgpt_json, errors
from chatgpt_rest.errors import UnknownModel
from chatgpt_rest.model import Completeness, Model, SentMessage, Turn
from chatgpt_rest.upstream.openai_api import OpenAIUpstream
from chatgpt_rest.upstream.openai_client import Reads
from chatgpt_rest.upstream.openai_events import ChunkReader
from chatgpt_rest.upstream.protocol import Caller
from chatgpt_rest.upstream.simulated import Reply, SimulatedOpenAI
from tests.house import NOON
from tests.upstream.far_end import (
    PROMPT_ID,
    RecordingGate,
    answering,
    chunked,
)
from tests.upstream.openai_end import adapter, asked, message, question, unfilled

# -------------------------------------------------------------------------------------------------------- what is sent


async def test_the_whole_branch_is_sent_and_then_the_prompt(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """History, what goes along, the prompt: in this order, each with its role."""
    history = (Turn("system", "Be brief."), Turn("user", "One?"), Turn("assistant", "1"))
    await asked(openai, me, question("Three?", history=history, before=(SentMessage("b", "user", "Two?"),)))
    assert api.asked == [
        [("system", "Be brief."), ("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("user", "Three?")]
    ]


async def test_an_answer_of_which_nothing_came_is_not_sent(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """Some servers refuse a message without words."""
    await asked(openai, me, question("Two?", history=(Turn("user", "One?"), Turn("assistant", ""))))
    assert api.asked == [[("user", "One?"), ("user", "Two?")]]


async def test_half_a_character_in_a_history_is_replaced(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """An imported message may hold a lone surrogate, which no request can."""
    await asked(openai, me, question("a\ud83d", history=(Turn("user", "\udc00b"),)))
    assert api.asked == [[("user", "\ufffdb"), ("user", "a\ufffd")]]


async def test_the_machine_is_not_told_of(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the package's headers about system and Python leave, nor those that the environment would add."""
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/hunter2")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: hunter2")
    await asked(openai, me)
    await openai.models(me)
    for request in api.received:
        assert {name.lower() for name in request.headers} <= {
            "host", "accept", "accept-encoding", "authorization", "content-length", "content-type", "user-agent"
        }  # fmt: skip
        assert re.fullmatch(r"chatgpt_rest/[\d.]+\S*", request.headers["User-Agent"])
        assert request.headers["Authorization"] == f"Bearer {api.key}"
        assert "hunter2" not in repr(request)


async def test_one_token_is_taken_for_each_request(openai: OpenAIUpstream, me: Caller, gate: RecordingGate) -> None:
    """Under a path without ids, before it leaves; its arrival is reported with the status."""
    await asked(openai, me)
    await openai.models(me)
    assert gate.taken == ["POST chat/completions", "GET models"]
    assert gate.outcomes == [200, 200]


async def test_without_a_token_nothing_leaves(openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller) -> None:
    """A gate that gives none is heard before anything is sent."""
    poor = Caller("me", me.token, RecordingGate(tokens=0))
    with pytest.raises(errors.BudgetSpent):
        await asked(openai, poor)
    assert api.received == []


@pytest.mark.parametrize("model", [None, "auto"])
async def test_a_model_has_to_be_named(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, model: str | None
) -> None:
    """The API has none of its own choosing, and asking for nothing costs no request."""
    with pytest.raises(UnknownModel, match="name one"):
        await asked(openai, me, question(model=model))
    assert api.received == []


async def test_a_continuation_is_refused_without_a_request(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """The API would begin another answer."""
    with pytest.raises(errors.UpstreamRejected, match="cannot go on"):
        await asked(openai, me, question("", parent_id="a", is_continuation=True))
    assert api.received == []


async def test_a_server_that_does_not_count_tokens_is_asked_without(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, gate: RecordingGate
) -> None:
    """The refusal of that option costs one request, once; the answer comes all the same."""
    api.knows_stream_options = False
    first, _ = await asked(openai, me)
    second, _ = await asked(openai, me)
    assert first.is_complete
    assert second.is_complete
    assert gate.outcomes == [400, 200, 200]
    assert "usage" not in message(first)["metadata"]


# -------------------------------------------------------------------------------------------------------- what comes


async def test_the_text_grows_piece_by_piece(openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller) -> None:
    """Each text begins with the one before."""
    api.replies.append(Reply("One two  three\nfour"))
    answer, texts = await asked(openai, me)
    assert texts[-1] == "One two  three\nfour"
    assert all(after.startswith(before) for before, after in pairwise(texts))
    assert answer.is_complete


async def test_the_answer_is_a_message_of_chatgpts_shape(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """The mirror, the export and the pages read it as any other one."""
    api.replies.append(Reply("Yes.", model="gpt-large-2026-01-01"))
    answer, _ = await asked(openai, me)
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


async def test_a_new_conversation_is_named_here(openai: OpenAIUpstream, me: Caller) -> None:
    """The API has no names for any; one that has a name keeps it."""
    new, _ = await asked(openai, me, question(conversation_id=None))
    known, _ = await asked(openai, me, question(conversation_id="c-7"))
    assert new.conversation_id is not None
    assert chatgpt_json.is_id(new.conversation_id)
    assert known.conversation_id == "c-7"


@pytest.mark.parametrize(("finish", "told"), [("stop", "stop"), ("length", "max_tokens"), ("content_filter",) * 2])
async def test_the_finish_is_told_in_chatgpts_words(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, finish: str, told: str
) -> None:
    """What the API calls `length` is `max_tokens` here."""
    api.replies.append(Reply(finish=finish))
    answer, _ = await asked(openai, me)
    assert answer.finish == told
    assert answer.is_complete


@pytest.mark.parametrize(
    ("told", "is_complete"),
    [(Reply("a b", finish=None), True), (Reply("a b", says_done=False), True),
     (Reply("a b", finish=None, says_done=False), False)],
)  # fmt: skip
async def test_an_answer_is_whole_where_its_end_is_said(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, told: Reply, is_complete: bool
) -> None:
    """`[DONE]` or a finish will do; a stream that merely ends is an answer that broke off."""
    api.replies.append(told)
    answer, texts = await asked(openai, me)
    assert texts[-1] == "a b"
    assert answer.is_complete is is_complete
    assert answer.nodes()[0].completeness is (Completeness.COMPLETE if is_complete else Completeness.PARTIAL)


async def test_a_model_that_declines_says_so(openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller) -> None:
    """Its words stand where the answer would."""
    chunks = [{"choices": [{"delta": {"refusal": "I can't."}}]}, {"choices": [{"finish_reason": "stop"}]}]
    api.replies.append(Reply(raw=b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in chunks)))
    answer, texts = await asked(openai, me)
    assert texts == ["I can't."]
    assert answer.is_complete


async def test_a_reader_that_leaves_ends_the_request(openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller) -> None:
    """The API is not left writing for nobody."""
    api.replies.append(Reply("one two three", hold=asyncio.Event(), hold_after=1))
    async with openai.ask(me, question()) as answer:
        assert await anext(aiter(answer)) == "one "
    async with asyncio.timeout(5):
        await api.received[0].was_left.wait()
    assert not answer.is_complete


async def test_what_comes_at_once_is_one_step(me: Caller) -> None:
    """However many chunks that are: each step costs as much as the whole text is long."""
    events = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in CHUNKS)
    async with answering(chunked(events + b"data: [DONE]\n\n")).serving() as far:
        openai = adapter(far)
        answer, texts = await asked(openai, me)
        await openai.aclose()
    assert texts == ["Hé \U0001f600\\n\nend"]
    assert answer.is_complete


@pytest.mark.parametrize("at_once", [1, 10_000], ids=["in many reads", "in one read"])
async def test_an_answer_that_lies_ready_lets_others_have_their_turn(at_once: int) -> None:
    """Reading it waits for nothing, and else nobody would go on until its end."""
    chunk = b"data: " + json.dumps(CHUNKS[0]).encode() + b"\n\n"
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def ready() -> AsyncIterator[bytes]:
        for _ in range(10_000 // at_once):
            yield chunk * at_once

    others = asyncio.create_task(take_turns())
    answer, deadline = unfilled(), asyncio.get_running_loop().time() + 20
    async for read in Reads(httpx.Response(200, content=ready()), answer, deadline=deadline):
        for each in read:
            answer.take(each)
    others.cancel()
    assert chatgpt_json.text(message(answer)) == "Hé " * 10_000
    assert turns >= 10_000 * len(chunk) // (128 * 1024)


async def test_connections_are_used_again(me: Caller) -> None:
    """What follows `[DONE]` is read, so that the next request needs no new one."""
    chunk = b'data: {"choices": [{"delta": {"content": "Yes."}, "finish_reason": "stop"}]}\n\n'
    async with answering(chunked(chunk, b"data: [DONE]\n\n")).serving() as far:
        openai = adapter(far)
        for _ in range(3):
            await asked(openai, me)
        await openai.aclose()
        assert far.connections == 1


async def test_the_models_are_told_in_upstreams_order(openai: OpenAIUpstream, me: Caller) -> None:
    """By the ids that a request names them by."""
    assert await openai.models(me) == (Model("gpt-large"), Model("gpt-small"))


async def test_what_a_server_tells_of_its_models_is_taken_where_it_fits(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """Names and windows of some servers; items that are none are passed over."""
    items = [{"id": "a", "name": "A", "context_length": 9}, {"id": "b", "max_model_len": 8, "name": 3}, {"id": 1}, {}]
    api.replies.append(Reply(body={"object": "list", "data": items}))
    assert await openai.models(me) == (Model("a", "A", 9), Model("b", None, 8))


@pytest.mark.parametrize("body", ["<html>", {"data": 3}, [], {"models": []}, "{"])
async def test_a_list_that_is_none_is_told_as_broken(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, body: object
) -> None:
    """Whatever stands in its place."""
    api.replies.append(Reply(body=body))
    with pytest.raises(errors.UpstreamBroken, match="is base_url right"):
        await openai.models(me)


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
    answer = unfilled()
    for piece in ("a\ud83d", "\ude00b", "\ud83d"):
        answer.take({"choices": [{"delta": {"content": piece}}]})
    assert chatgpt_json.text(message(answer)) == "a\U0001f600b"


def test_an_answer_without_end_is_refused_and_what_came_is_kept() -> None:
    """A model that raves, behind a fast server, fills no memory."""
    answer = unfilled()
    piece = {"choices": [{"delta": {"content": "x" * 1024 * 1024}}]}
    for _ in range(8):
        answer.take(piece)
    with pytest.raises(errors.UpstreamBroken, match="longer than any answer"):
        answer.take({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]})
    assert chatgpt_json.text(message(answer)) == "x" * 8 * 1024 * 1024
    assert not answer.is_complete


def test_another_choice_is_no_part_of_the_answer() -> None:
    """Nobody asked for it: the one that counts is the first, by its number or by having none."""
    answer = unfilled()
    answer.take({"choices": [{"index": 1, "delta": {"content": "B"}}, {"index": 0, "delta": {"content": "A"}}]})
    answer.take({"choices": [{"index": 1, "delta": {"content": "B"}, "finish_reason": "stop"}]})
    answer.take({"choices": [{"delta": {"content": "a"}}]})
    assert chatgpt_json.text(message(answer)) == "Aa"
    assert answer.finish is None


def test_a_models_name_that_holds_the_key_is_not_taken() -> None:
    """It would be written down, and shown to whoever reads the answer."""
    answer = unfilled()
    answer.take({"choices": [{"delta": {"content": "A"}}], "model": "x/sk-hunter2"})
    assert message(answer)["metadata"]["model_slug"] == "gpt-large"


@pytest.mark.parametrize(
    "chunk",
    [None, 3, [], "x", {}, {"choices": None}, {"choices": []}, {"choices": [3]}, {"choices": {"delta": {}}},
     {"choices": [], "usage": {"prompt_tokens": 3}}],
)  # fmt: skip
def test_a_chunk_of_an_unknown_shape_is_passed_over(chunk: object) -> None:
    """It says nothing, and breaks nothing."""
    answer = unfilled()
    answer.take(chunk)
    assert answer.nodes() == ()
    assert not answer.has_begun


@pytest.mark.parametrize(
    "choice", [{}, {"delta": None}, {"delta": 3}, {"delta": {"content": None}, "finish_reason": 3}]
)
def test_a_choice_without_words_is_a_beginning(choice: dict[str, Any]) -> None:
    """The first event names the role alone."""
    answer = unfilled()
    answer.take({"choices": [choice], "model": 3, "usage": []})
    assert chatgpt_json.text(message(answer)) == ""
    assert not answer.is_complete
