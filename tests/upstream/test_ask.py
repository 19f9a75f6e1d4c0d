# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking through the adapter: answers that come whole, and every way they have been seen not to."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
from typing import Any

import pytest

from chatgpt_rest import chatgpt_json
from chatgpt_rest.errors import (
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamLimit,
    UpstreamRefusesPrograms,
    UpstreamSlow,
)
from chatgpt_rest.model import Completeness, Question
from chatgpt_rest.upstream.protocol import Answer, Caller
from chatgpt_rest.upstream.revchatgpt import RevChatGPT
from chatgpt_rest.upstream.simulated import SimulatedChatGPT, answer_to, segments
from tests.upstream.far_end import (
    PROMPT_ID,
    SSE,
    RawUpstream,
    RecordingGate,
    answering,
    caller,
    chunked,
    question,
    reply,
)

CONVERSATION = "c0ffee00-0000-4000-8000-000000000001"


def event(text: str, **members: Any) -> bytes:
    """One event of an answer, as bytes."""
    message = {
        "id": "a1",
        "author": {"role": "assistant"},
        "content": {"content_type": "text", "parts": [text]},
        "metadata": {},
        **members,
    }
    return (
        b"data: " + json.dumps({"message": message, "conversation_id": CONVERSATION, "error": None}).encode() + b"\n\n"
    )


DONE = b"data: [DONE]\n\n"


async def ask(upstream: RevChatGPT, on_behalf: Caller, asked: Question | None = None) -> tuple[Answer, list[str]]:
    """The answer once it is over, and its texts."""
    async with upstream.ask(on_behalf, asked or question()) as answer:
        return answer, [text async for text in answer]


async def broken(upstream: RevChatGPT, on_behalf: Caller) -> tuple[Answer, list[str], UpstreamError]:
    """An answer that is begun and breaks: what came of it, and why."""
    texts: list[str] = []
    async with upstream.ask(on_behalf, question()) as answer:
        try:
            async for text in answer:
                texts.append(text)  # noqa: PERF401  # what came before the error counts
        except UpstreamError as error:
            return answer, texts, error
    pytest.fail("the answer did not break")


def text_of(answer: Answer) -> str:
    """The text of the answer's last node."""
    return chatgpt_json.text(json.loads(answer.nodes()[-1].message or b"null"))


async def test_a_new_conversation(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """The text grows to the whole answer, and the nodes are those upstream keeps."""
    answer, texts = await ask(upstream, alice)
    (there,) = chatgpt.alice.conversations
    assert texts[-1] == answer_to("Hello?")
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert (answer.is_complete, answer.finish, answer.conversation_id) == (True, "stop", there.id)
    assert [node.id for node in answer.nodes()] == [PROMPT_ID, there.current_node]
    for node in answer.nodes():
        assert json.loads(node.message or b"null") == there.mapping[node.id]["message"]
        assert node.completeness is Completeness.COMPLETE


async def test_an_ask_is_one_request_with_our_ids(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """The prompt goes under the id chosen here, below the parent given, to the model named, and is not held back."""
    there = chatgpt.alice.add_conversation("Greeting", [("Hi", "Hello")])
    parent = there.current_node
    answer, _ = await ask(upstream, alice, question(conversation_id=there.id, parent_id=parent, model="gpt-4o"))
    body = json.loads(chatgpt.requests[0].body)
    assert body == {
        "action": "next",
        "messages": [
            {"id": PROMPT_ID, "author": {"role": "user"}, "content": {"content_type": "text", "parts": ["Hello?"]}}
        ],
        "conversation_id": there.id,
        "parent_message_id": parent,
        "model": "gpt-4o",
        "history_and_training_disabled": False,
    }
    assert [node.parent for node in answer.nodes()] == [parent, PROMPT_ID]
    assert chatgpt.received() == 1


async def test_a_new_conversation_has_a_fresh_parent_and_the_default_model(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """Upstream insists on a parent even where there is none; a `parent_id` with no conversation means nothing."""
    await ask(upstream, alice, question(parent_id="left-over"))
    await ask(upstream, alice)
    first, second = (json.loads(request.body) for request in chatgpt.requests)
    assert first["conversation_id"] is None
    assert first["model"] == "gpt-5"
    assert len({first["parent_message_id"], second["parent_message_id"], "left-over"}) == 3


async def test_auto_continue_is_done_by_us_seam_intact(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """An answer cut by `max_tokens` is one request, its continuation another, and nothing is stripped between them."""
    prompt = "Go on [[max_tokens]]"
    cut, _ = await ask(upstream, alice, question(prompt))
    assert (cut.finish, cut.is_complete, chatgpt.received()) == ("max_tokens", True, 1)
    cut_id = cut.nodes()[-1].id
    rest, _ = await ask(upstream, alice, Question("", "", cut.conversation_id, cut_id, None, is_continuation=True))
    assert json.loads(chatgpt.requests[1].body)["action"] == "continue"
    assert [node.parent for node in rest.nodes()] == [cut_id]
    assert [text_of(cut), text_of(rest)] == segments(prompt, cuts=1)
    assert chatgpt.received() == 2


@pytest.mark.parametrize(
    "stream",
    [
        "no_space",
        "multi_line_data",
        "missing_ids",
        "null_author",
        "null_metadata",
        "null_finish_details",
        "title_event",
        "tool_messages_between",
    ],
)
async def test_an_odd_stream_is_a_whole_answer(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, stream: str
) -> None:
    """What revChatGPT drops or crashes on comes through."""
    chatgpt.fault("conversation", stream=stream)
    answer, texts = await ask(upstream, alice)
    assert texts[-1] == answer_to("Hello?") == text_of(answer)
    assert answer.is_complete


async def test_raw_separators(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """Raw U+2028, U+2029 and U+0085 inside JSON lose no event."""
    chatgpt.fault("conversation", stream="raw_separators")
    _, texts = await ask(upstream, alice)
    assert texts[-1].endswith("one\u2028two\u2029three\u0085four")


async def test_non_string_parts(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """An image before the text does not hide it."""
    chatgpt.fault("conversation", stream="non_string_parts")
    answer, texts = await ask(upstream, alice)
    assert answer_to("Hello?") in texts[-1]
    assert answer.is_complete


async def test_a_title_given_in_mid_stream(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """A title event without a message is read for its title."""
    chatgpt.fault("conversation", stream="title_event")
    answer, _ = await ask(upstream, alice)
    assert answer.title == chatgpt.alice.conversations[0].title


async def test_tools_are_nodes_and_no_text(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """The call of a tool and its result are kept in their places, and a reader is not shown them."""
    chatgpt.fault("conversation", stream="tool_messages_between")
    answer, texts = await ask(upstream, alice)
    nodes = answer.nodes()
    assert len(nodes) == 4
    assert [node.parent for node in nodes[1:]] == [node.id for node in nodes[:-1]]
    assert not any("search(" in text for text in texts)


@pytest.mark.parametrize("stream", ["empty", "204", "only_user_event", "done_only"])
async def test_zero_events_is_a_bad_gateway(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, stream: str
) -> None:
    """A success without one word of the assistant's is no answer."""
    chatgpt.fault("conversation", stream=stream)
    answer, texts, error = await broken(upstream, alice)
    assert (type(error), error.code, texts) == (UpstreamBroken, "upstream_empty_answer", [])
    assert not answer.is_complete


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        ("html_200", "web page"),
        ("json_200", "error"),
        ("delta_encoding", "delta encoding"),
        ("error_event_only", "error"),
        ("internal_server_error_line", "Internal Server Error"),
        ("huge_line", "line"),
    ],
)
async def test_a_stream_that_is_none_says_why(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, stream: str, words: str
) -> None:
    """Each of these looks like silence to revChatGPT."""
    chatgpt.fault("conversation", stream=stream)
    answer, _, error = await broken(upstream, alice)
    assert type(error) is UpstreamBroken
    assert words in error.text
    assert not answer.is_complete


async def test_error_event_after_partial_text(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """An error in mid-stream is raised, and what came before it is kept as partial."""
    chatgpt.fault("conversation", stream="error_event", after_events=3)
    answer, _, error = await broken(upstream, alice)
    assert type(error) is UpstreamBroken
    assert answer_to("Hello?").startswith(text_of(answer))
    assert [node.completeness for node in answer.nodes()] == [Completeness.COMPLETE, Completeness.PARTIAL]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Our systems have detected unusual activity coming from your system.", UpstreamRefusesPrograms),
        ("Too many requests in 1 hour. Try again later.", UpstreamLimit),
        ("Only one message at a time.", UpstreamBusy),
    ],
)
async def test_a_refusal_in_the_stream(
    chatgpt: SimulatedChatGPT,
    upstream: RevChatGPT,
    alice: Caller,
    gate: RecordingGate,
    *,
    words: str,
    kind: type[UpstreamError],
) -> None:
    """The bot check and the limits come in streams, too, and the gate hears of them."""
    chatgpt.fault("conversation", stream="error_event_only", error_text=words)
    _, _, error = await broken(upstream, alice)
    assert type(error) is kind
    assert gate.refusals == [(error, "gpt-5")]


async def test_an_end_with_no_done_is_partial(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """A stream that ends in mid-answer just ends; the answer says that it is not whole."""
    chatgpt.fault("conversation", stream="no_done", after_events=3)
    answer, texts = await ask(upstream, alice)
    assert not answer.is_complete
    assert texts
    assert answer.nodes()[-1].completeness is Completeness.PARTIAL


async def test_an_end_with_no_done_after_a_finish_is_whole(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """A finish says as much as `[DONE]`."""
    chatgpt.fault("conversation", stream="no_done")
    answer, _ = await ask(upstream, alice)
    assert answer.is_complete


async def test_a_connection_cut_in_mid_answer(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """The text so far has come; then the break is raised."""
    chatgpt.fault("conversation", reset_after_bytes=3000)
    answer, _, error = await broken(upstream, alice)
    assert error.code == "upstream_reset"
    assert not answer.is_complete
    assert answer.nodes()


async def test_a_connection_cut_after_the_last_word_loses_nothing() -> None:
    """Once an answer is complete, how its connection ends is of no interest."""
    whole = event("Hello", end_turn=True)
    async with answering(chunked(whole, end=False), then_close=True).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        answer, texts = await ask(upstream, caller(RecordingGate()))
        await upstream.aclose()
    assert (texts, answer.is_complete) == (["Hello"], True)


async def test_trailing_after_done(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """A server that keeps the stream open after `[DONE]` is left."""
    chatgpt.fault("conversation", stream="trailing_after_done")
    answer, _ = await ask(upstream, alice)
    assert answer.is_complete


async def test_more_after_done_than_is_worth_reading_is_left() -> None:
    """A connection is not worth a megabyte."""
    flood = chunked(event("Hello"), DONE, *[b":" + b"x" * 500_000 + b"\n"] * 10, end=False)
    async with answering(flood).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        answer, _ = await ask(upstream, caller(RecordingGate()))
        await far.was_reset.wait()
        await upstream.aclose()
    assert answer.is_complete


async def test_asks_share_one_connection() -> None:
    """What follows `[DONE]` is read to the end, so that the next ask needs no new connection."""
    async with answering(chunked(event("Hello"), DONE)).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        gate = RecordingGate()
        for _ in range(5):
            await ask(upstream, caller(gate))
        await upstream.aclose()
        assert (far.connections, len(far.requests), gate.outcomes) == (1, 5, [200] * 5)


async def test_a_packed_answer_is_unpacked() -> None:
    """Proxies in front of upstream may send an answer gzipped; what comes of it is the same."""
    packed = gzip.compress(event("Hello", end_turn=True) + DONE)
    sent = chunked(packed[:100], packed[100:]).replace(SSE, SSE + b"Content-Encoding: gzip\r\n")
    async with answering(sent).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        answer, texts = await ask(upstream, caller(RecordingGate()))
        await upstream.aclose()
    assert (texts, answer.is_complete) == (["Hello"], True)


async def test_what_came_just_before_a_reset_is_kept() -> None:
    """Words that the kernel hands over together with the end of their connection are read first."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(chunked(event("Hello"), event("Hello again"), end=False))
        writer.transport.abort()

    far = RawUpstream(answer)
    async with far.serving():
        upstream = RevChatGPT(base_url=far.base_url)
        begun, texts, error = await broken(upstream, caller(RecordingGate()))
        await upstream.aclose()
    assert (texts[-1], text_of(begun), error.code) == ("Hello again", "Hello again", "upstream_reset")


async def test_of_a_growing_answer_each_text_is_the_whole_so_far() -> None:
    """Events that are known by their bytes alone come out as if each had been decoded."""
    words = [f"{number} " for number in range(30)]
    sent = [event("".join(words[:count])) for count in range(1, 31)]
    async with answering(chunked(*sent, event("".join(words), end_turn=True), DONE)).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        answer, texts = await ask(upstream, caller(RecordingGate()))
        await upstream.aclose()
    assert texts[-1] == text_of(answer) == "".join(words)
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert (answer.is_complete, answer.message_id) == (True, "a1")


async def test_of_one_chunk_the_newest_event_is_handed_on() -> None:
    """Events that came together are one step: each repeats the text so far."""
    together = b"".join(event("word " * count) for count in range(1, 50))
    async with answering(chunked(together, event("word " * 50), DONE)).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        _, texts = await ask(upstream, caller(RecordingGate()))
        await upstream.aclose()
    assert len(texts) <= 2
    assert texts[-1] == "word " * 50


async def test_the_headers_are_in_as_the_context_is_entered(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, gate: RecordingGate
) -> None:
    """A refusal is raised on entering; what is inside is an answer that has begun."""
    fault = chatgpt.fault("conversation", hold_after_events=0)
    async with upstream.ask(alice, question()) as answer:
        assert gate.outcomes == [200]
        assert answer.conversation_id is None
        fault.release()
        assert [text async for text in answer]


async def test_only_one_message_at_a_time(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """A second ask while the first is being answered is told apart from a limit."""
    fault = chatgpt.fault("conversation", hold_after_events=1, times=1)
    async with upstream.ask(alice, question()) as answer:
        with pytest.raises(UpstreamBusy):
            await ask(upstream, alice)
        fault.release()
        assert [text async for text in answer]


async def test_an_answer_has_a_deadline_as_a_whole(
    chatgpt: SimulatedChatGPT, base_url: str, alice: Caller, gate: RecordingGate
) -> None:
    """A stream that stands still is given up on; what came is kept."""
    chatgpt.fault("conversation", hold_after_events=3)
    impatient = RevChatGPT(base_url=base_url, answer_timeout_seconds=0.3)
    answer, _, error = await broken(impatient, alice)
    await impatient.aclose()
    assert type(error) is UpstreamSlow
    assert answer.nodes()[-1].completeness is Completeness.PARTIAL
    assert gate.outcomes == [200]


async def test_a_dripping_answer_meets_the_same_deadline() -> None:
    """Every byte is in time, the whole is not."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(chunked(event("Hello"), end=False))
        while True:
            writer.write(b"1\r\n:\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    far = answering(b"")
    far.answer = answer
    async with far.serving():
        upstream = RevChatGPT(base_url=far.base_url, answer_timeout_seconds=0.2)
        _, texts, error = await broken(upstream, caller(RecordingGate()))
        await upstream.aclose()
    assert (type(error), texts) == (UpstreamSlow, ["Hello"])


async def test_headers_that_do_not_come_meet_the_same_deadline(
    chatgpt: SimulatedChatGPT, base_url: str, alice: Caller, gate: RecordingGate
) -> None:
    """The deadline holds from the beginning."""
    chatgpt.fault("conversation", hold=True)
    impatient = RevChatGPT(base_url=base_url, answer_timeout_seconds=0.1)
    with pytest.raises(UpstreamSlow):
        await ask(impatient, alice)
    await impatient.aclose()
    assert len(gate.outcomes) == chatgpt.received() == 1


async def test_cancelling_in_mid_answer_closes_the_response() -> None:
    """A cancelled ask leaves no connection behind, and what came stays readable."""
    begun = asyncio.Event()
    answers: list[Answer] = []

    async def reader() -> None:
        async with upstream.ask(caller(gate), question()) as answer:
            answers.append(answer)
            async for _ in answer:
                begun.set()

    gate = RecordingGate()
    async with answering(chunked(event("Hello"), end=False)).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        task = asyncio.create_task(reader())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await far.was_reset.wait()
        await upstream.aclose()
    assert gate.outcomes == [200]
    assert [node.completeness for node in answers[0].nodes()] == [Completeness.PARTIAL]


@pytest.mark.parametrize("exception", [None, LookupError])
async def test_leaving_in_mid_answer_closes_the_response(exception: type[Exception] | None) -> None:
    """Whoever stops reading, or fails, has closed the connection when the context is left."""
    async with answering(chunked(event("Hello"), end=False)).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        try:
            async with upstream.ask(caller(RecordingGate()), question()) as answer:
                async for _ in answer:
                    if exception is None:
                        break
                    raise exception
        except LookupError:
            assert exception is LookupError
        await far.was_reset.wait()
        await upstream.aclose()


async def test_cancelling_before_the_headers_closes_the_connection(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, gate: RecordingGate
) -> None:
    """A cancelled ask that upstream has not answered yet is reported as having arrived."""
    fault = chatgpt.fault("conversation", hold=True)
    task = asyncio.create_task(ask(upstream, alice))
    await fault.until_held()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.outcomes == ["CancelledError"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"detail": "Too many requests in 1 hour. Try again later."}', UpstreamLimit),
        (b'{\n  "detail": "Our systems have detected unusual activity"\n}', UpstreamRefusesPrograms),
        (b"<html></html>", UpstreamBroken),
    ],
)
async def test_a_refusal_with_status_200(body: bytes, kind: type[UpstreamError]) -> None:
    """JSON in a stream's place is read for what it says."""
    async with answering(reply(body)).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        _, _, error = await broken(upstream, caller(RecordingGate()))
        await upstream.aclose()
    assert type(error) is kind


async def test_an_answer_of_no_conversation_is_broken() -> None:
    """Text that belongs nowhere is kept, and said to be useless."""
    nowhere = event("Hello", end_turn=True).replace(CONVERSATION.encode(), b"../x")
    async with answering(chunked(nowhere, DONE)).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        answer, _, error = await broken(upstream, caller(RecordingGate()))
        await upstream.aclose()
    assert "which conversation" in error.text
    assert text_of(answer) == "Hello"
