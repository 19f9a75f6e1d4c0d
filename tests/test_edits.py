# SPDX-License-Identifier: GPL-2.0-or-later
"""Renaming, archiving and deleting: upstream first, then here, and neither claims too much."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest.context import FETCHES
from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT, answer_to
from tests.house import Answered, Client, House, ManualClock, open_house
from tests.rows import rows

INJECTIONS: Final = {
    "quote": 'x", "is_visible": false, "y": "',
    "closing": '"}',
    "line ends": "a\nb\r\nc",
    "separators": "a\u2028b\u2029c\x85d",
    "NUL": "a\x00b",
    "backslashes": '\\"\\u0022',
    "emoji": "🧾 饼",
    "long": "a" * 10_000,
}
FAILURES: Final[dict[str, tuple[dict[str, Any], int, str]]] = {
    "a failure": ({"error": "server_error"}, 502, "upstream_broken"),
    "a page": ({"body": "<html>Log in</html>", "content_type": "text/html"}, 502, "upstream_broken"),
    "no success": ({"body": {"success": False}}, 502, "upstream_broken"),
    "a bot check": ({"error": "html_403"}, 502, "upstream_refuses_programs"),
    "a limit": ({"error": "hourly_limit"}, 500, "upstream_rate_limit"),
    "another token": ({"error": "bad_token"}, 401, "access_token_refused"),
    "a reset": ({"reset": True}, 502, "upstream_reset"),
}


@pytest.fixture
def groceries(chatgpt: SimulatedChatGPT) -> SimConversation:
    """A conversation that ChatGPT has and the mirror has not."""
    return chatgpt.alice.add_conversation("Groceries", [("What do I need?", "Milk.")])


async def titles(client: Client, query: str = "") -> list[str]:
    """The titles that the list shows."""
    return [entry["title"] for entry in (await client.get(f"/conversations{query}")).json]


async def draft(client: Client, chatgpt: SimulatedChatGPT) -> str:
    """The id of a conversation that lives only here: its prompt was lost on the way."""
    chatgpt.fault("conversation", reset=True, times=1)
    lost = await client.post("/conversations/new", json={"prompt": "Lost?"})
    return str(lost.json["conversation_id"])


async def change(client: Client, method: str, conversation_id: str) -> Answered:
    """Edit a conversation, or delete it."""
    options = {"json": {"title": "Other", "is_archived": True}} if method == "PATCH" else {}
    return await client.request(method, f"/conversations/{conversation_id}", **options)


# ---------------------------------------------------------------------------------------------------------- editing


@pytest.mark.parametrize("form", ["json", "data"])
async def test_a_new_title(client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation, form: str) -> None:
    """`PATCH` sets the title upstream and here, and answers the conversation's list entry."""
    renamed = await client.patch(f"/conversations/{groceries.id}", **{form: {"title": "Shopping"}})
    assert (renamed.status, renamed.json["id"], renamed.json["title"]) == (200, groceries.id, "Shopping")
    assert list(renamed.json) == ["id", "title", "create_time", "update_time", "mapping", "current_node"]
    assert (groceries.title, await titles(client)) == ("Shopping", ["Shopping"])
    assert json.loads(chatgpt.requests[-1].body) == {"title": "Shopping"}


async def test_the_archive(client: Client, groceries: SimConversation) -> None:
    """`is_archived` puts a conversation into the archive, and brings it back."""
    path = f"/conversations/{groceries.id}"
    assert (await client.patch(path, json={"is_archived": True})).status == 200
    assert (groceries.is_archived, await titles(client), await titles(client, "?archived=only")) == (
        True,
        [],
        ["Groceries"],
    )
    assert (await client.patch(path, json={"is_archived": False})).status == 200
    assert (groceries.is_archived, await titles(client)) == (False, ["Groceries"])


async def test_both_at_once_are_one_request(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """Title and archive travel together."""
    await change(client, "PATCH", groceries.id)
    assert [json.loads(request.body) for request in chatgpt.requests if request.method == "PATCH"] == [
        {"title": "Other", "is_archived": True}
    ]


async def test_an_edit_of_nothing(client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation) -> None:
    """`PATCH` without a field to change is a 400, and asks nothing."""
    refused = await client.patch(f"/conversations/{groceries.id}", json={"pinned": True})
    assert (refused.status, refused.json["error"]) == (400, "title or is_archived is required")
    assert chatgpt.received() == 1


@pytest.mark.parametrize("title", INJECTIONS.values(), ids=INJECTIONS)
async def test_a_title_is_nothing_but_a_title(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation, title: str
) -> None:
    """Whatever a title holds reaches upstream and the list as it is, and changes nothing else."""
    renamed = await client.patch(f"/conversations/{groceries.id}", json={"title": title})
    assert (renamed.status, renamed.json["title"]) == (200, title)
    assert (groceries.title, groceries.is_visible, await titles(client)) == (title, True, [title])
    assert json.loads(chatgpt.requests[-1].body) == {"title": title}


async def test_an_edit_is_never_a_304(client: Client, groceries: SimConversation) -> None:
    """`If-None-Match` has no say in an edit."""
    edited = await client.patch(
        f"/conversations/{groceries.id}", json={"title": "Shopping"}, headers={"If-None-Match": "*"}
    )
    assert (edited.status, edited.json["title"]) == (200, "Shopping")


async def test_an_edit_shows_in_the_whole_conversation(client: Client, groceries: SimConversation) -> None:
    """Title and archive are those set here, in every view."""
    await client.get(f"/conversations/{groceries.id}")
    await change(client, "PATCH", groceries.id)
    whole = (await client.get(f"/conversations/{groceries.id}")).json
    assert (whole["title"], whole["is_archived"]) == ("Other", True)


async def test_an_edit_of_what_is_gone_upstream(client: Client, groceries: SimConversation) -> None:
    """Where upstream has the conversation no more, an edit is a 404 and changes nothing here."""
    before = await client.get(f"/conversations/{groceries.id}")
    groceries.delete()
    assert (await change(client, "PATCH", groceries.id)).status == 404
    assert (await client.get(f"/conversations/{groceries.id}")).body == before.body


# --------------------------------------------------------------------------------------------------------- deleting


async def test_a_deleted_conversation_is_gone(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """After `DELETE` nothing of it is listed or read, and nothing is asked upstream about it any more."""
    await client.get(f"/conversations/{groceries.id}")
    assert (await client.delete(f"/conversations/{groceries.id}")).status == 204
    assert json.loads(chatgpt.requests[-1].body) == {"is_visible": False}
    chatgpt.requests.clear()
    assert await titles(client) == []
    for path in (f"/conversations/{groceries.id}", f"/conversations/{groceries.id}/messages"):
        assert (await client.get(path)).status == 404
    assert (await change(client, "PATCH", groceries.id)).status == 404
    assert chatgpt.received() == 0


async def test_deleting_twice_is_deleting_once(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """A second `DELETE` is answered like the first, and asks nothing."""
    for _ in range(2):
        assert (await client.delete(f"/conversations/{groceries.id}")).status == 204
    assert chatgpt.received("PATCH") == 1


async def test_a_conversation_that_is_gone_upstream_counts_as_deleted(
    client: Client, groceries: SimConversation
) -> None:
    """Upstream's 404 for what the mirror has means that there is nothing left to do there."""
    await client.get(f"/conversations/{groceries.id}")
    groceries.delete()
    assert (await client.delete(f"/conversations/{groceries.id}")).status == 204
    assert (await client.get(f"/conversations/{groceries.id}")).status == 404


@pytest.mark.parametrize(
    "body",
    [
        {"detail": {"code": "conversation_inaccessible", "message": "You may not see this."}},
        {"detail": "Not Found"},
    ],
    ids=["inaccessible", "no such route"],
)
async def test_a_404_that_proves_nothing_deletes_nothing(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation, body: dict[str, Any]
) -> None:
    """Where upstream's 404 does not say that the conversation is gone, it stays here."""
    await client.get(f"/conversations/{groceries.id}")
    chatgpt.fault("conversation/*", status=404, body=body)
    assert (await client.delete(f"/conversations/{groceries.id}")).status == 404
    assert await titles(client) == ["Groceries"]


async def test_deleting_what_nobody_has(client: Client) -> None:
    """A conversation that neither side knows is a 404."""
    refused = await client.delete("/conversations/00000000-0000-4000-8000-000000000000")
    assert (refused.status, refused.json["code"]) == (404, "not_found")


async def test_a_tombstone_outlives_the_list(
    house: House, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """A conversation deleted here stays so although upstream's list or content still shows it."""
    await house.client.delete(f"/conversations/{groceries.id}")
    groceries.is_visible = True
    groceries.rename("Back again")
    account = chatgpt.alice.user_id
    mirror = house.mirror.of(account)
    await house.app[FETCHES].fetch_first_page(mirror, lambda: house.auth.caller_of(account))
    await house.app[FETCHES].fetch(mirror, groceries.id, lambda: house.auth.caller_of(account))
    assert await titles(house.client) == []
    assert (await house.client.get(f"/conversations/{groceries.id}")).status == 404


async def test_deleting_all_is_one_request(house: House, chatgpt: SimulatedChatGPT) -> None:
    """All conversations go at once, the archive and what lives here only included; another account keeps its own."""
    chatgpt.alice.many(5)
    chatgpt.alice.add_conversation("Kept", archived=True)
    chatgpt.bob.many(1)
    await draft(house.client, chatgpt)
    assert len(await titles(house.client_of(chatgpt.bob))) == 1
    chatgpt.requests.clear()
    assert (await house.client.delete("/conversations/all")).status == 204
    assert [(request.method, request.path) for request in chatgpt.requests] == [("PATCH", "/backend-api/conversations")]
    assert await titles(house.client, "?archived=all") == []
    assert len(await titles(house.client_of(chatgpt.bob))) == 1
    assert [conversation.is_visible for conversation in chatgpt.alice.everything] == [False] * 6


# ------------------------------------------------------------------------------------------- upstream says no, or not


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_what_upstream_did_not_do_is_not_done_here(
    client: Client,
    chatgpt: SimulatedChatGPT,
    groceries: SimConversation,
    method: str,
    failure: tuple[dict[str, Any], int, str],
) -> None:
    """An edit or deletion that upstream did not confirm changes nothing here, and the client hears why."""
    fault, status, code = failure
    before = await client.get(f"/conversations/{groceries.id}")
    chatgpt.fault("conversation/*", **fault)
    refused = await change(client, method, groceries.id)
    assert (refused.status, refused.json["code"]) == (status, code)
    other = client.as_(chatgpt.alice.token())  # the first token may have been refused
    chatgpt.clear_faults()
    read = await (client if code == "upstream_rate_limit" else other).get(f"/conversations/{groceries.id}")
    assert (read.status, read.body) == (200, before.body)


@pytest.mark.parametrize(
    ("method", "path"),
    [("PATCH", "/conversations/{}"), ("DELETE", "/conversations/{}"), ("DELETE", "/conversations/all")],
    ids=["edit", "delete", "delete all"],
)
async def test_with_upstream_away_nothing_changes(
    tmp_path: Path, chatgpt: SimulatedChatGPT, clock: ManualClock, method: str, path: str
) -> None:
    """Without a connection edits and deletions are 503 with a code, and everything stays readable."""
    groceries = chatgpt.alice.add_conversation("Groceries", [("What do I need?", "Milk.")])
    async with chatgpt.serving() as base_url, open_house(tmp_path, chatgpt, base_url, clock) as house:
        before = await house.client.get(f"/conversations/{groceries.id}")
        token = house.client.authorization
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        client = house.client.as_(token)
        refused = await client.request(method, path.format(groceries.id), json={"title": "Other"})
        assert (refused.status, refused.json["code"]) == (503, "upstream_away")
        assert (await client.get(f"/conversations/{groceries.id}")).body == before.body


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_what_lives_here_only_needs_no_upstream(client: Client, chatgpt: SimulatedChatGPT, method: str) -> None:
    """A draft is edited and deleted without a request."""
    local = await draft(client, chatgpt)
    chatgpt.requests.clear()
    assert (await change(client, method, local)).status == (200 if method == "PATCH" else 204)
    assert await titles(client, "?archived=all") == (["Other"] if method == "PATCH" else [])
    assert chatgpt.received() == 0


async def test_a_draft_whose_answer_is_being_written_stays(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A new conversation that upstream has not named yet cannot be deleted from under its answer."""
    fault = chatgpt.fault("conversation", hold=True)
    asking = asyncio.create_task(client.post("/conversations/new", json={"prompt": "Hello?"}))
    await fault.until_held()
    (entry,) = (await client.get("/conversations")).json
    refused = await client.delete(f"/conversations/{entry['id']}")
    assert (refused.status, refused.json["code"]) == (409, "ask_under_way")
    fault.release()
    assert (await asking).status == 201


async def test_deleting_under_an_answer_costs_nobody_the_answer(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """A conversation that upstream has can be deleted in mid-answer: who asked gets it, and nobody else."""
    await client.get("/conversations")
    fault = chatgpt.fault("conversation", hold_after_events=1)
    asking = asyncio.create_task(client.post(f"/conversations/{groceries.id}/ask", json={"prompt": "Eggs?"}))
    await fault.until_held()
    assert (await client.delete(f"/conversations/{groceries.id}")).status == 204
    fault.release()
    asked = await asking
    assert (asked.status, asked.json["response"]["message"]) == (201, answer_to("Eggs?"))
    assert (await client.get(f"/conversations/{groceries.id}/messages")).status == 404
    assert await titles(client, "?deleted=only") == ["Groceries"]


async def test_deleting_everything_takes_an_answer_that_has_not_begun_with_it(
    client: Client, chatgpt: SimulatedChatGPT
) -> None:
    """A new conversation that upstream names only after that is deleted too; who asked gets the answer all the same."""
    await client.get("/conversations")
    fault = chatgpt.fault("conversation", hold_after_events=0)
    asking = asyncio.create_task(client.post("/conversations/new", json={"prompt": "Hello?", "title": "Mine"}))
    await fault.until_held()
    assert (await client.delete("/conversations/all")).status == 204
    fault.release()
    asked = await asking
    assert (asked.status, asked.json["response"]["message"]) == (201, answer_to("Hello?"))
    assert (await titles(client), await titles(client, "?deleted=only")) == ([], ["Mine"])


async def test_a_list_asked_for_before_everything_was_deleted_brings_nothing_back(
    house: House, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """A page that was on its way meanwhile is old, even where it names what was not known here."""
    await house.client.get("/conversations")
    page = {"items": [{"id": "late", "title": "Late", "update_time": 1.0}], "total": 1, "limit": 100, "offset": 0}
    fault = chatgpt.fault("conversations", method="GET", hold=True, body=page)
    another = house.client.as_(chatgpt.alice.token())
    listing = asyncio.create_task(another.get("/conversations"))  # a new token is checked with a page of the list
    await fault.until_held()
    assert (await house.client.delete("/conversations/all")).status == 204
    fault.release()
    assert ((await listing).json, await titles(house.client)) == ([], [])
    assert rows(house, "select id from conversation where deleted_at is null") == []


async def test_a_conversation_asked_for_before_everything_was_deleted_is_not_kept(
    house: House, chatgpt: SimulatedChatGPT
) -> None:
    """Nor is a conversation that was on its way, and that was not even listed here."""
    await house.client.get("/conversations")
    newer = chatgpt.alice.add_conversation("Newer", [("Hello?", "Hello.")])
    fault = chatgpt.fault("conversation/*", method="GET", hold=True, body=newer.detail(), times=1)
    reading = asyncio.create_task(house.client.get(f"/conversations/{newer.id}/messages"))
    await fault.until_held()
    assert (await house.client.delete("/conversations/all")).status == 204
    fault.release()
    assert (await reading).status == 404
    assert rows(house, "select id from conversation where deleted_at is null") == []
    assert rows(house, "select count(*) from node") == [(0,)]


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_what_lives_here_only_needs_no_budget(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, method: str
) -> None:
    """Nor is it turned away where the budget is spent."""
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="2") as house:
        local = await draft(house.client, chatgpt)
        assert (await change(house.client, method, local)).status == (200 if method == "PATCH" else 204)
    assert chatgpt.received() == 2


async def test_a_draft_s_title_reaches_upstream_with_it(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A title given to a draft is the conversation's when it turns up upstream."""
    chatgpt.fault("conversation", stream="empty", times=1)
    lost = await client.post("/conversations/new", json={"prompt": "Lost?"})
    await client.patch(f"/conversations/{lost.json['conversation_id']}", json={"title": "Found"})
    (there,) = chatgpt.alice.conversations
    await client.get(f"/conversations/{there.id}")
    assert await titles(client) == ["Found"]
