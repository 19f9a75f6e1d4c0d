# SPDX-License-Identifier: GPL-2.0-or-later
"""One conversation over HTTP: read through once, and ids that must not become paths."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import pytest

from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT
from tests.house import Client, House, ManualClock

HOSTILE: Final = {
    "dots": "..",
    "dot": ".",
    "traversal": "..%2fconversations",
    "traversal in capitals": "..%2Fconversations",
    "encoded dots": "%2e%2e",
    "encoded traversal": "%2e%2e%2fconversations",
    "doubly encoded": "%252e%252e%252fconversations",
    "backslash": "..%5cconversations",
    "question mark": "c0ffee%3fis_visible=false",
    "hash": "c0ffee%23x",
    "NUL": "c0ffee%00",
    "line end": "c0ffee%0d%0aX-Evil:%20y",
    "space": "c0%20ffee",
    "plus": "c0+ffee",
    "semicolon": "c0ffee;x=1",
    "percent": "c0ffee%",
    "overlong": "a" * 129,
    "very long": "a" * 4000,
    "not UTF-8": "c0ffee%ff%fe",
    "overlong UTF-8 slash": "..%c0%afconversations",
    "fullwidth": "%ef%bc%8e%ef%bc%8e",
    "other digits": "%d9%a3%d9%a3",
    "leading dash": "-c0ffee",
    "at sign": "c0@ffee",
}
ROUTES: Final[list[tuple[str, str, dict[str, Any]]]] = [
    ("GET", "/conversations/{}/messages", {}),
    ("GET", "/conversations/{}", {}),
    ("GET", "/conversations/{}/export", {}),
    ("GET", "/conversations/{}/stream", {}),
    ("POST", "/conversations/{}/ask", {"json": {"prompt": "Hello?"}}),
    ("DELETE", "/conversations/{}", {}),
    ("PATCH", "/conversations/{}", {"json": {"title": "Other"}}),
]


@pytest.fixture
def groceries(chatgpt: SimulatedChatGPT) -> SimConversation:
    """A conversation that ChatGPT has and the mirror has not."""
    return chatgpt.alice.add_conversation("Groceries", [("What do I need?", "Milk.")])


@pytest.mark.parametrize("conversation_id", HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_id_goes_nowhere(client: Client, chatgpt: SimulatedChatGPT, conversation_id: str) -> None:
    """On every route, what is no id is refused, nothing but the token's check reaches upstream, and it is not
    repeated.
    """
    chatgpt.alice.many(2)
    for method, path, options in ROUTES:
        refused = await client.request(method, path.format(conversation_id), **options)
        assert refused.status in {400, 404, 405}
        assert refused.json["code"] in {"bad_request", "not_found", "method_not_allowed"}
        assert len(conversation_id) < 8 or conversation_id[:8].encode() not in refused.body
    assert {request.path.partition("?")[0] for request in chatgpt.requests} <= {"/backend-api/conversations"}
    assert {request.method for request in chatgpt.requests} <= {"GET"}
    assert len(chatgpt.alice.conversations) == 2


async def test_a_hostile_parent_is_no_id(client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation) -> None:
    """A `parent_id` that is no id is refused before anything is fetched or asked."""
    for parent_id in HOSTILE.values():
        refused = await client.post(f"/conversations/{groceries.id}/ask", json={"prompt": "x", "parent_id": parent_id})
        assert refused.json == {"error": "parent_id must be the id of a message", "code": "bad_request"}
    assert chatgpt.received() == 1


@pytest.mark.parametrize("view", ["", "/messages"], ids=["whole", "messages"])
async def test_reading_asks_upstream_once(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation, view: str
) -> None:
    """A conversation that is not here is fetched on the first read and never again: not in 1,000 reads."""
    path = f"/conversations/{groceries.id}{view}"
    first = await client.get(path)
    chatgpt.requests.clear()
    for _ in range(1000):
        again = await client.get(path)
        assert (again.status, again.body) == (200, first.body)
    assert chatgpt.received() == 0


async def test_the_whole_conversation_is_chatgpt_s_own_json(client: Client, groceries: SimConversation) -> None:
    """`GET /conversations/{id}` holds every member that upstream sent, as it sent it."""
    read = await client.get(f"/conversations/{groceries.id}")
    assert read.json == groceries.detail()


async def test_first_readers_at_once_share_one_request(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """Any number of first readers of one conversation cost one request."""
    await client.get("/conversations")
    path = f"/conversations/{groceries.id}/messages"
    reads = await asyncio.gather(*(client.get(path) for _ in range(20)))
    assert {(read.status, read.body) for read in reads} == {(200, reads[0].body)}
    assert chatgpt.received("GET", "conversation/*") == 1


async def test_a_reader_that_hangs_up_takes_nothing_from_the_others(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """Of two who wait for one fetch, the second is answered though the first has gone."""
    fault = chatgpt.fault("conversation/*", hold=True)
    path = f"/conversations/{groceries.id}/messages"
    first, second = (asyncio.create_task(client.get(path)) for _ in range(2))
    await fault.until_held()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    fault.release()
    assert (await second).status == 200
    assert chatgpt.received("GET", "conversation/*") == 1


async def test_an_unknown_id_is_remembered_for_ten_minutes(
    client: Client, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """That upstream has no such conversation is asked once in ten minutes."""
    path = "/conversations/00000000-0000-4000-8000-000000000000/messages"
    for seconds, received in ((0, 1), (599, 1), (2, 2)):
        clock.move(seconds=seconds)
        missing = await client.get(path)
        assert (missing.status, missing.json["code"]) == (404, "not_found")
        assert chatgpt.received("GET", "conversation/*") == received


async def test_another_account_s_conversation_is_not_there(
    house: House, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """What Alice has read Bob still cannot read, edit, ask in or delete."""
    path = f"/conversations/{groceries.id}"
    assert (await house.client.get(path)).status == 200
    bob = house.client_of(chatgpt.bob)
    answers = [
        await bob.get(path),
        await bob.get(f"{path}/messages"),
        await bob.post(f"{path}/ask", json={"prompt": "Hello?"}),
        await bob.patch(path, json={"title": "Bob's"}),
        await bob.delete(path),
    ]
    assert [answer.status for answer in answers] == [404] * 5
    assert all(b"Milk" not in answer.body for answer in answers)
    assert (groceries.title, groceries.is_visible) == ("Groceries", True)


def deep(levels: int) -> str:
    """A conversation with a member that is a bomb."""
    return '{"conversation_id": "c0ffee", "mapping": {}, "plugin_ids": ' + "[" * levels + "]" * levels + "}"


BROKEN: Final = {
    "a page": {"body": "<!DOCTYPE html><html><title>Log in</title></html>", "content_type": "text/html"},
    "garbage": {"body": "\x00\x01 certainly no JSON"},
    "nothing": {"body": ""},
    "an array": {"body": []},
    "no mapping": {"body": {"title": "Half", "conversation_id": "c0ffee"}},
    "a mapping that is none": {"body": {"mapping": [], "conversation_id": "c0ffee"}},
    "another conversation": {"body": {"mapping": {}, "conversation_id": "d0d0"}},
    "NaN": {"body": '{"mapping": {}, "conversation_id": "c0ffee", "create_time": NaN}'},
    "infinity": {"body": '{"mapping": {"n": {"message": {"weight": 1e999}}}, "conversation_id": "c0ffee"}'},
    "too deep to read": {"body": deep(100_000)},
    "too deep to write": {"body": deep(200)},
    "cut short": {"body": '{"mapping": {}, "conversation_id": "c0ffee"}', "truncate_after_bytes": 20},
    "a failure": {"error": "server_error"},
    "a gateway's page": {"error": "bad_gateway"},
    "a bot check": {"error": "html_403"},
}


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
async def test_what_upstream_breaks_is_502_and_not_stored(
    client: Client, chatgpt: SimulatedChatGPT, fault: dict[str, Any]
) -> None:
    """An answer that is no conversation is a 502, nothing of it is kept, and the next read asks again."""
    chatgpt.alice.add_conversation("Coffee", [("Milk?", "Yes.")], conversation_id="c0ffee")
    chatgpt.fault("conversation/*", times=1, **fault)
    broken = await client.get("/conversations/c0ffee")
    assert broken.status == 502
    assert broken.json["code"].startswith("upstream_")
    assert "html" not in json.dumps(broken.json["error"])
    read = await client.get("/conversations/c0ffee")
    assert read.json["title"] == "Coffee"
    assert len(read.json["mapping"]) == 4


async def test_an_oddity_of_upstream_s_is_kept_as_it_is(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Half a character and members nobody knows come through, in `messages` and in the whole."""
    odd = {
        "conversation_id": "c0ffee",
        "current_node": "n",
        "new_member": [1, {"a": None}],
        "mapping": {
            "n": {
                "id": "n",
                "parent": None,
                "children": [],
                "message": {
                    "id": "n",
                    "author": {"role": "user"},
                    "content": {"content_type": "text", "parts": ["half \ud800"]},
                },
            }
        },
    }
    chatgpt.fault("conversation/c0ffee", body=odd)
    whole = await client.get("/conversations/c0ffee")
    messages = await client.get("/conversations/c0ffee/messages")
    assert whole.json["new_member"] == [1, {"a": None}]
    assert whole.json["mapping"]["n"]["message"] == odd["mapping"]["n"]["message"]  # type: ignore[index]  # a tree
    assert [message["message"] for message in messages.json] == ["half \ud800"]


async def test_reading_marks_validators_per_conversation(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """A conversation read again with its ETag is 304 until it changes."""
    path = f"/conversations/{groceries.id}/messages"
    etag = (await client.get(path)).headers["ETag"]
    assert (await client.get(path, headers={"If-None-Match": etag})).status == 304
    await client.post(f"/conversations/{groceries.id}/ask", json={"prompt": "More?"})
    changed = await client.get(path, headers={"If-None-Match": etag})
    assert (changed.status, len(changed.json)) == (200, 4)
    assert chatgpt.received("GET", "conversation/*") == 1
