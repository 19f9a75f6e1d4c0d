# SPDX-License-Identifier: GPL-2.0-or-later
"""The adapter as the rest of the program sees it, over real HTTP. Its fixture holds tokens against requests."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from chatgpt_rest.errors import (
    BadRequest,
    BudgetSpent,
    MirrorError,
    Unauthorized,
    UpstreamAway,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamLimit,
    UpstreamNotFound,
    UpstreamRefusedToken,
    UpstreamRefusesPrograms,
    UpstreamRejected,
    UpstreamSlow,
)
from chatgpt_rest.model import Secret
from chatgpt_rest.upstream import session
from chatgpt_rest.upstream.protocol import Caller, Upstream
from chatgpt_rest.upstream.revchatgpt import RevChatGPT
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.upstream.far_end import RawUpstream, RecordingGate, answering, caller, closed_port, question, reply


def protocol_is_implemented(adapter: RevChatGPT) -> Upstream:
    """The type checker's test."""
    return adapter


def sent(chatgpt: SimulatedChatGPT) -> Any:
    """The JSON of the last request received."""
    return json.loads(chatgpt.requests[-1].body)


async def test_a_page_of_the_list(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """One page is one request, newest update first; a short one is the last."""
    for number in range(3):
        chatgpt.alice.add_conversation(f"Conversation {number}", [("Hi", "Hello")])
    page = await upstream.list_page(alice, offset=0, limit=2)
    assert [item.title for item in page.items] == [each.title for each in chatgpt.alice.conversations[:2]]
    assert not page.is_last
    assert (await upstream.list_page(alice, offset=2, limit=2)).is_last
    assert chatgpt.requests[0].path.endswith("conversations?offset=0&limit=2&order=updated")


async def test_the_archived_have_a_list_of_their_own(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """Archived conversations are asked for and come apart."""
    chatgpt.alice.add_conversation("Kept", [("Hi", "Hello")])
    chatgpt.alice.add_conversation("Archived", [("Hi", "Hello")], archived=True)
    page = await upstream.list_page(alice, offset=0, limit=100, is_archived=True)
    assert [(item.title, item.is_archived) for item in page.items] == [("Archived", True)]


async def test_a_whole_conversation(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """A conversation comes with every node, in one request."""
    there = chatgpt.alice.add_conversation("Greeting", [("Hi", "Hello"), ("How are you?", "Fine")])
    tree = await upstream.conversation(alice, there.id)
    assert (tree.id, tree.title, tree.current_node) == (there.id, "Greeting", there.current_node)
    assert set(tree.nodes) == set(there.mapping)
    assert chatgpt.received() == 1


@pytest.mark.parametrize("title", ['a "quote"', 'x", "is_visible": false, "y": "', "line\nbreak", "\ud800", "日本"])
async def test_change_title_injection(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, title: str
) -> None:
    """A title is a title whatever it holds."""
    there = chatgpt.alice.add_conversation("Old", [("Hi", "Hello")])
    await upstream.edit(alice, there.id, title=title)
    assert sent(chatgpt) == {"title": title}
    assert (there.title, there.is_visible) == (title, True)


async def test_title_and_archive_are_one_request(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """Both may change at once."""
    there = chatgpt.alice.add_conversation("Old", [("Hi", "Hello")])
    await upstream.edit(alice, there.id, title="New", is_archived=True)
    assert (there.title, there.is_archived, chatgpt.received()) == ("New", True, 1)


async def test_nothing_to_change_costs_nothing(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """An edit of nothing is a mistake and no request."""
    with pytest.raises(BadRequest):
        await upstream.edit(alice, "an-id")
    assert chatgpt.received() == 0


async def test_delete_hides_one_and_delete_all_the_rest(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """A deletion is one request, for one conversation or all."""
    first, *others = [chatgpt.alice.add_conversation(f"{number}", [("Hi", "Hello")]) for number in range(3)]
    await upstream.delete(alice, first.id)
    assert [each.is_visible for each in (first, *others)] == [False, True, True]
    await upstream.delete_all(alice)
    assert chatgpt.alice.conversations == []
    assert chatgpt.received() == 2


HOSTILE = [
    "",
    ".",
    "..",
    "../conversations",
    "..%2fconversations",
    "%2e%2e",
    "%2e%2e%2fconversations",
    "a/b",
    "a\\b",
    "a?b",
    "a#b",
    "a%00",
    "a\x00",
    "a\n",
    "a b",
    "ä",
    "\ud800",
    "٣",
    "x" * 10_000,
]


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_path_injection(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, gate: RecordingGate, hostile: str
) -> None:
    """What is no id reaches upstream in no method: no request, no token."""
    for attempt in (
        upstream.conversation(alice, hostile),
        upstream.delete(alice, hostile),
        upstream.edit(alice, hostile, title="x"),
        upstream.list_project(alice, hostile),
        upstream.ask(alice, question(message_id=hostile)).__aenter__(),
        upstream.ask(alice, question(conversation_id=hostile, parent_id="x")).__aenter__(),
        upstream.ask(alice, question(conversation_id="x", parent_id=hostile)).__aenter__(),
    ):
        with pytest.raises(BadRequest):
            await attempt
    assert (chatgpt.received(), gate.taken) == (0, [])


async def test_an_ask_without_a_parent_is_refused(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """revChatGPT would fetch the whole conversation first: two requests for one."""
    with pytest.raises(BadRequest):
        await upstream.ask(alice, question(conversation_id="an-id")).__aenter__()
    assert chatgpt.received() == 0


@pytest.mark.parametrize("token", ["", "a\nb", "a\x00b", "a b", "ä", "x" * 20_000, "\ud800"])
async def test_a_malformed_token_does_not_leave(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, token: str) -> None:
    """A token that is none is refused before anything repeats it in an exception's text."""
    gate = RecordingGate()
    with pytest.raises(Unauthorized) as caught:
        await upstream.list_page(Caller("alice", Secret(token), gate), offset=0, limit=1)
    assert not token or token not in str(caught.value)
    assert (chatgpt.received(), gate.taken) == (0, [])


EACH_METHOD = ["list_page", "list_projects", "list_project", "conversation", "edit", "delete", "delete_all", "ask"]


async def call(upstream: RevChatGPT, name: str, on_behalf: Caller) -> None:
    """Call one of EACH_METHOD."""
    match name:
        case "list_page":
            await upstream.list_page(on_behalf, offset=0, limit=1)
        case "list_projects":
            await upstream.list_projects(on_behalf)
        case "list_project":
            await upstream.list_project(on_behalf, "g-p-1")
        case "conversation":
            await upstream.conversation(on_behalf, "an-id")
        case "edit":
            await upstream.edit(on_behalf, "an-id", title="x")
        case "delete":
            await upstream.delete(on_behalf, "an-id")
        case "delete_all":
            await upstream.delete_all(on_behalf)
        case _:
            async with upstream.ask(on_behalf, question()) as answer:
                async for _ in answer:
                    pass


@pytest.mark.parametrize("method", EACH_METHOD)
@pytest.mark.parametrize(
    ("named", "kind"),
    [
        ("bad_token", UpstreamRefusedToken),
        ("token_expired", UpstreamRefusedToken),
        ("forbidden", UpstreamBroken),
        ("html_403", UpstreamRefusesPrograms),
        ("unusual_activity", UpstreamRefusesPrograms),
        ("not_found", UpstreamNotFound),
        ("too_large", UpstreamRejected),
        ("invalid", UpstreamRejected),
        ("hourly_limit", UpstreamLimit),
        ("one_at_a_time", UpstreamBusy),
        ("model_cap", UpstreamLimit),
        ("server_error", UpstreamBroken),
        ("bad_gateway", UpstreamBroken),
        ("unavailable", UpstreamBroken),
    ],
)
async def test_every_method_says_what_upstream_said(
    chatgpt: SimulatedChatGPT,
    upstream: RevChatGPT,
    alice: Caller,
    gate: RecordingGate,
    *,
    method: str,
    named: str,
    kind: type[UpstreamError],
) -> None:
    """A refusal is the same error wherever it comes, costs one token, and the gate hears of it once."""
    chatgpt.fault(error=named)
    with pytest.raises(UpstreamError) as caught:
        await call(upstream, method, alice)
    assert type(caught.value) is kind
    assert gate.outcomes == [chatgpt.requests[0].status]
    assert gate.refusals == [(caught.value, "gpt-5" if method == "ask" else None)]


async def test_the_gates_refusal_goes_through(chatgpt: SimulatedChatGPT, upstream: RevChatGPT) -> None:
    """BudgetSpent reaches the caller as it is, and nothing leaves."""
    for method in EACH_METHOD:
        with pytest.raises(BudgetSpent):
            await call(upstream, method, caller(RecordingGate(tokens=0), chatgpt.alice.token()))
    assert chatgpt.received() == 0


@pytest.mark.parametrize("method", EACH_METHOD)
async def test_a_reset_is_a_broken_upstream(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, method: str
) -> None:
    """A connection reset before any answer may have delivered the request, and is not repeated."""
    chatgpt.fault(reset=True)
    with pytest.raises(UpstreamBroken) as caught:
        await call(upstream, method, alice)
    assert caught.value.code == "upstream_reset"
    assert chatgpt.received() == 1


@pytest.mark.parametrize("method", EACH_METHOD)
async def test_nobody_there_is_away(method: str) -> None:
    """Without a connection nothing was delivered, which UpstreamAway promises."""
    upstream = RevChatGPT(base_url=f"http://127.0.0.1:{closed_port()}/backend-api/")
    with pytest.raises(UpstreamAway):
        await call(upstream, method, caller(RecordingGate()))
    await upstream.aclose()


@pytest.mark.parametrize("method", ["list_page", "list_projects", "list_project", "conversation"])
@pytest.mark.parametrize(
    "body",
    [
        b"<html>Log in</html>",
        b"",
        b"[]",
        b"null",
        b"{",
        b"[" * 100_000,
        b'{"items": 7}',
        b'{"mapping": []}',
        b"\xff\xfe",
    ],
)
async def test_json_decode_error_on_a_200_with_html(method: str, body: bytes) -> None:
    """A success that cannot be read is a broken upstream, not a crash."""
    gate = RecordingGate()
    async with answering(reply(body)).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        with pytest.raises(UpstreamBroken) as caught:
            await call(upstream, method, caller(gate))
        await upstream.aclose()
    assert gate.refusals == [(caught.value, None)]


@pytest.mark.parametrize("body", [b"<html>Log in</html>", b'{"success": false}', b"7", b"[" * 100_000])
async def test_a_deletion_that_is_not_confirmed_did_not_happen(body: bytes) -> None:
    """Only upstream's word makes a change: a page with status 200 is none."""
    async with answering(reply(body)).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        for method in ("delete", "delete_all", "edit"):
            with pytest.raises(UpstreamBroken):
                await call(upstream, method, caller(RecordingGate()))
        await upstream.aclose()


@pytest.mark.parametrize("body", [b"", b'{"success": true}', b"{}"])
async def test_a_change_may_be_confirmed_without_words(body: bytes) -> None:
    """Compatible servers answer with nothing, or with an empty object."""
    async with answering(reply(body)).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        await call(upstream, "delete", caller(RecordingGate()))
        await upstream.aclose()


async def test_a_reply_cut_short_is_a_reset(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """Half a conversation is not taken for a whole one."""
    there = chatgpt.alice.add_conversation("Greeting", [("Hi", "Hello")])
    chatgpt.fault(truncate_after_bytes=100)
    with pytest.raises(UpstreamBroken) as caught:
        await upstream.conversation(alice, there.id)
    assert caught.value.code == "upstream_reset"


async def test_a_refusal_cut_short_is_still_a_refusal(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """The status says enough where the body does not come."""
    chatgpt.fault(error="invalid", truncate_after_bytes=5)
    with pytest.raises(UpstreamRejected):
        await upstream.delete_all(alice)


async def test_a_reply_that_never_ends_is_given_up_on(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream that drips is bounded as a whole, not each byte of it."""
    monkeypatch.setattr(session, "REQUEST_SECONDS", 0.1)
    there = chatgpt.alice.add_conversation("Greeting", [("Hi", "Hello")])
    chatgpt.fault(drip_bytes=1, drip_pause_seconds=0.02)
    with pytest.raises(UpstreamSlow):
        await upstream.conversation(alice, there.id)


async def test_a_request_that_is_not_answered_is_given_up_on(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is upstream that says nothing."""
    monkeypatch.setattr(session, "REQUEST_SECONDS", 0.1)
    chatgpt.fault(hold=True)
    with pytest.raises(UpstreamSlow):
        await upstream.list_page(alice, offset=0, limit=1)


async def test_a_reply_larger_than_any_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that never ends does not fill the memory."""
    monkeypatch.setattr(session, "LARGEST_REPLY_BYTES", 1000)
    async with answering(reply(b"[" + b" " * 2000 + b"]")).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        with pytest.raises(UpstreamBroken, match="larger"):
            await call(upstream, "conversation", caller(RecordingGate()))
        await upstream.aclose()


async def test_a_reply_that_cannot_be_decompressed_is_broken() -> None:
    """What claims to be gzip and is not."""
    bad = reply(b"no gzip", headers=b"Content-Encoding: gzip\r\n")
    async with answering(bad).serving() as far:
        adapter = RevChatGPT(base_url=far.base_url)
        with pytest.raises(UpstreamBroken):
            await call(adapter, "list_page", caller(RecordingGate()))
        await adapter.aclose()


async def test_errors_carry_upstreams_own_json(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """The client is shown what upstream said."""
    chatgpt.fault(error="invalid")
    with pytest.raises(MirrorError) as caught:
        await upstream.delete_all(alice)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["detail"][0]["msg"] == "field required"


async def test_retry_after_is_taken_from_the_response(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """Upstream's header says how long its limit holds."""
    chatgpt.limit(after=0, status=400, retry_after_seconds=77)
    with pytest.raises(UpstreamLimit) as caught:
        await upstream.list_page(alice, offset=0, limit=1)
    assert caught.value.retry_after_seconds == 77


async def test_many_first_requests_open_one_client(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """revChatGPT is imported, and the client opened, once."""
    await asyncio.gather(*(upstream.list_page(alice, offset=0, limit=1) for _ in range(20)))
    assert chatgpt.received() == 20


async def test_each_caller_goes_with_a_token_and_a_gate_of_its_own(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, gate: RecordingGate
) -> None:
    """Accounts that share the client share nothing else."""
    other = RecordingGate()
    bob = caller(other, chatgpt.bob.token())
    chatgpt.bob.add_conversation("Bob's", [("Hi", "Hello")])
    pages = await asyncio.gather(
        *(upstream.list_page(on_behalf, offset=0, limit=1) for on_behalf in (alice, bob) for _ in range(5))
    )
    assert [len(page.items) for page in pages] == [0] * 5 + [1] * 5
    assert (len(gate.taken), len(other.taken)) == (5, 5)
    gate.receipts += other.receipts  # the fixture counts all of them


async def test_the_base_url_must_end_in_a_slash() -> None:
    """Paths are appended to it."""
    with pytest.raises(ValueError, match="end in /"):
        RevChatGPT(base_url="https://chatgpt.com/backend-api")


async def test_closing_what_never_opened_is_nothing() -> None:
    """A server that only read closes at once."""
    await RevChatGPT(base_url="https://chatgpt.com/backend-api/").aclose()


async def test_a_server_that_repeats_the_token_does_not_make_us_repeat_it() -> None:
    """Where an error holds the request's own headers, the token is taken out of it."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        head = far.requests[-1].decode()
        writer.write(reply(json.dumps({"detail": head}).encode(), status="400 Bad Request"))

    far = RawUpstream(answer)
    async with far.serving():
        upstream = RevChatGPT(base_url=far.base_url)
        with pytest.raises(UpstreamRejected) as caught:
            await call(upstream, "delete", caller(RecordingGate(), "canary-token"))
        await upstream.aclose()
    assert "Bearer [access token]" in str(caught.value.body)
    assert "canary" not in str(caught.value.body)
