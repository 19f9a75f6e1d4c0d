# SPDX-License-Identifier: GPL-2.0-or-later
"""An OpenAI API as upstream: every way in which it fails, and what each means."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatgpt_rest import chatgpt_json, errors
from chatgpt_rest.errors import UnknownModel, UpstreamError
from chatgpt_rest.model import Completeness, Secret
from chatgpt_rest.upstream.openai_api import OpenAIUpstream
from chatgpt_rest.upstream.protocol import Caller
from chatgpt_rest.upstream.simulated import Reply, SimulatedOpenAI
from tests.house import ManualClock
from tests.upstream.far_end import (
    RawUpstream,
    RecordingGate,
    answering,
    closed_port,
    reply,
)
from tests.upstream.openai_end import adapter, message, question, refused

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
    (500, error("server_error"), errors.UpstreamBroken, "upstream_refused"),
    (503, "<html>", errors.UpstreamBroken, "upstream_refused"),
    (302, "", errors.UpstreamBroken, "upstream_unknown_path"),
]


@pytest.mark.parametrize("case", REFUSALS)
async def test_each_refusal_has_its_meaning(
    openai: OpenAIUpstream,
    api: SimulatedOpenAI,
    me: Caller,
    gate: RecordingGate,
    case: tuple[int, object, type[errors.MirrorError], str],
) -> None:
    """By status, code and words; the gate hears of it, if it says something of upstream, and nothing is sent twice."""
    status, body, kind, code = case
    api.replies.append(Reply(status=status, body=body))
    told = await refused(openai, me)
    assert (type(told), told.code) == (kind, code)
    assert gate.outcomes == [status]
    assert gate.refusals == ([(told, "gpt-large")] if isinstance(told, UpstreamError) else [])


@pytest.mark.parametrize(
    ("told", "seconds"),
    [(("rate_limit_exceeded", {"Retry-After": "7"}), 7), (("rate_limit_exceeded", {}), 20),
     (("insufficient_quota", {}), 300), (("insufficient_quota", {"Retry-After": "60"}), 60)],
)  # fmt: skip
async def test_a_limit_tells_how_long_it_holds(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, told: tuple[str, dict[str, str]], seconds: int
) -> None:
    """As upstream says, else for a while that fits its kind."""
    code, headers = told
    api.replies.append(Reply(status=429, body=error(code), headers=headers))
    assert (await refused(openai, me)).retry_after_seconds == seconds


async def test_a_key_that_is_refused_is_not_shown(openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller) -> None:
    """Not even the part of it that the API repeats."""
    wrong = Caller("me", Secret("sk-proj-hunter2-and-more"), me.gate)
    told = await refused(openai, wrong)
    assert isinstance(told, errors.UpstreamRefusedToken)
    assert told.code == "api_key_refused"
    assert told.body is None
    assert len(api.received) == 1


async def test_a_key_that_comes_back_in_an_error_is_taken_out(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """Some servers repeat the request's headers."""
    api.replies.append(Reply(status=500, body={"error": {"message": f"Bearer {api.key}"}}))
    told = await refused(openai, me)
    assert told.body == {"error": {"message": "Bearer [API key]"}}


async def test_a_key_in_the_streams_error_is_taken_out(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """There the whole of what it said is left out."""
    api.replies.append(Reply("one two", error_after=1, error={"message": api.key}))
    assert (await refused(openai, me)).body is None


@pytest.mark.parametrize(
    ("told", "code"),
    [({"message": "x", "code": "server_error"}, "upstream_broken"), ("overloaded", "upstream_broken"),
     ({"message": "x", "type": "tokens", "code": "rate_limit_exceeded"}, "model_cap_exceeded"),
     ({"message": "x", "code": "insufficient_quota"}, "upstream_rate_limit")],
)  # fmt: skip
async def test_an_error_in_mid_stream_keeps_what_came(
    openai: OpenAIUpstream, api: SimulatedOpenAI, gate: RecordingGate, told: object, code: str
) -> None:
    """It is raised while iterating, with upstream's own words, told to the gate once, and the answer is partial."""
    api.replies.append(Reply("one two three", error_after=2, error=told))
    async with openai.ask(Caller("me", Secret(api.key), gate), question()) as answer:
        with pytest.raises(UpstreamError) as raised:
            async for _ in answer:
                pass
    assert (raised.value.code, raised.value.body) == (code, {"error": told})
    assert chatgpt_json.text(message(answer)) == "one two "
    assert not answer.is_complete
    assert len(gate.refusals) == 1


async def test_a_connection_that_breaks_keeps_what_came(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """The answer is partial, and nothing is sent again."""
    api.replies.append(Reply("one two three", reset_after=2))
    async with openai.ask(me, question()) as answer:
        with pytest.raises(errors.UpstreamBroken):
            async for _ in answer:
                pass
    assert answer.nodes()[0].completeness is Completeness.PARTIAL
    assert len(api.received) == 1


async def test_a_connection_that_breaks_before_the_headers_is_not_tried_again(
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller
) -> None:
    """Nobody can tell whether the prompt was read."""
    api.replies.append(Reply(reset_after=0))
    assert (await refused(openai, me)).code == "upstream_reset"
    assert len(api.received) == 1


async def test_an_answer_that_takes_too_long_ends(api_url: str, api: SimulatedOpenAI, me: Caller) -> None:
    """The deadline is for the whole of it."""
    api.replies.append(Reply("one two", hold=asyncio.Event(), hold_after=1))
    impatient = OpenAIUpstream(base_url=api_url, clock=ManualClock(), answer_timeout_seconds=0.2)
    assert isinstance(await refused(impatient, me), errors.UpstreamSlow)
    await impatient.aclose()


async def test_headers_that_take_too_long_end_it(api_url: str, api: SimulatedOpenAI, me: Caller) -> None:
    """The same deadline holds for them."""
    api.replies.append(Reply(hold=asyncio.Event()))
    impatient = OpenAIUpstream(base_url=api_url, clock=ManualClock(), answer_timeout_seconds=0.2)
    assert isinstance(await refused(impatient, me), errors.UpstreamSlow)
    await impatient.aclose()


async def test_no_connection_is_told_as_away(me: Caller, gate: RecordingGate) -> None:
    """Nothing was delivered, which is another thing than not to know."""
    openai = OpenAIUpstream(base_url=f"http://127.0.0.1:{closed_port()}/v1/", clock=ManualClock())
    assert isinstance(await refused(openai, me), errors.UpstreamAway)
    await openai.aclose()
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
    openai: OpenAIUpstream, api: SimulatedOpenAI, me: Caller, stream: bytes, told: tuple[str, str]
) -> None:
    """Whatever stands in its place."""
    api.replies.append(Reply(raw=stream))
    raised = await refused(openai, me)
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
        openai = adapter(far)
        told = await refused(openai, me)
        await openai.aclose()
    assert isinstance(told, errors.UpstreamRejected)
    assert told.body is None


async def test_a_list_of_models_without_end_is_refused(me: Caller) -> None:
    """It is read to a bound that no true list comes near."""
    async with answering(reply(b'{"data": [' + b" " * (17 * 1024 * 1024) + b"]}")).serving() as far:
        openai = adapter(far)
        with pytest.raises(errors.UpstreamBroken, match="cannot be read"):
            await openai.models(me)
        await openai.aclose()


@pytest.mark.parametrize("name", ["list_page", "list_projects", "list_project", "conversation", "edit", "delete"])
async def test_what_it_cannot_do_is_a_clear_error(openai: OpenAIUpstream, me: Caller, name: str) -> None:
    """Who asks it for a conversation has made a mistake in this program."""
    with pytest.raises(NotImplementedError, match="keeps no conversations"):
        getattr(openai, name)(me, "c-1")
