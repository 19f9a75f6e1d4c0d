# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulated ChatGPT speaks the wire facts and fails as it is told: seen from the client's end, over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import aiohttp
import pytest

from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT, answer_to, segments
from tests.upstream.simulated_client import PROMPT_ID, UNKNOWN_ID, Client, Clock, asked, part


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def chatgpt(clock: Clock) -> SimulatedChatGPT:
    """A simulated ChatGPT with its library."""
    return SimulatedChatGPT(now=clock)


@pytest.fixture
async def client(chatgpt: SimulatedChatGPT) -> AsyncIterator[Client]:
    """Alice's client of it, over HTTP."""
    async with chatgpt.serving() as base, aiohttp.ClientSession() as session:
        yield Client(session, base, chatgpt.alice.token())


@pytest.fixture
def some(chatgpt: SimulatedChatGPT) -> SimConversation:
    """Alice's newest conversation."""
    return chatgpt.alice.conversations[0]


# Tokens


async def test_a_token_carries_the_claims_of_its_account(chatgpt: SimulatedChatGPT) -> None:
    """The payload holds user id, email address and expiry under the names upstream gives them."""
    payload = chatgpt.alice.token(expires_in_seconds=60).split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    assert claims["https://api.openai.com/auth"]["user_id"] == chatgpt.alice.user_id
    assert claims["https://api.openai.com/profile"]["email"] == chatgpt.alice.email
    assert claims["exp"] - claims["iat"] == 60


@pytest.mark.parametrize("forgery", ["none", "payload", "signature", "garbage", "empty", "foreign"])
async def test_a_forged_token_is_not_parsed(chatgpt: SimulatedChatGPT, client: Client, forgery: str) -> None:
    """Whatever was not signed here is answered 401 in upstream's words, and belongs to nobody in the log."""
    head, payload, signature = chatgpt.bob.token().split(".")
    stolen = chatgpt.alice.token().split(".")[1]
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    forged = {
        "none": f"{unsigned}.{stolen}.",
        "payload": f"{head}.{stolen}.{signature}",
        "signature": f"{head}.{payload}.{signature[::-1]}",
        "garbage": "no-token-at-all",
        "empty": " ",
        "foreign": SimulatedChatGPT(conversations=False).alice.token(),
    }[forgery]
    reply = await client.ask("GET", "conversations", token=forged)
    assert reply.status == 401
    assert reply.json["detail"].startswith("Could not parse your authentication token.")
    assert chatgpt.requests[-1].account is None


async def test_an_expired_token_says_so(chatgpt: SimulatedChatGPT, client: Client, clock: Clock) -> None:
    """A token that was good is answered 401 with a code once its time is over."""
    token = chatgpt.alice.token(expires_in_seconds=60)
    assert (await client.ask("GET", "models", token=token)).status == 200
    clock.seconds += 61
    reply = await client.ask("GET", "models", token=token)
    assert (reply.status, reply.json["detail"]["code"]) == (401, "token_expired")


async def test_a_revoked_token_is_refused_and_others_are_not(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """Revoking takes back one token of an account, not the account."""
    token = chatgpt.alice.token()
    chatgpt.alice.revoke(token)
    assert (await client.ask("GET", "models", token=token)).status == 401
    assert (await client.ask("GET", "models")).status == 200


# Lists


async def test_the_list_is_newest_update_first(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """Items have the list's shape and leave out what is archived, deleted or inside a project."""
    items = (await client.ask("GET", "conversations?offset=0&limit=100&order=updated")).json["items"]
    assert [item["id"] for item in items] == [conversation.id for conversation in chatgpt.alice.conversations]
    assert len(items) == len(chatgpt.alice.everything) - 3
    assert all(item["mapping"] is None and item["current_node"] is None for item in items)
    assert {"is_archived", "is_starred", "gizmo_id", "workspace_id", "pinned_time"} <= items[0].keys()


async def test_times_come_in_both_iso_forms(client: Client) -> None:
    """Some conversations write Z and some +00:00; updates are whole seconds, creations are not."""
    items = (await client.ask("GET", "conversations?limit=100&order=updated")).json["items"]
    assert {"Z" if item["update_time"].endswith("Z") else item["update_time"][-6:] for item in items} == {"Z", "+00:00"}
    assert all(datetime.fromisoformat(item["update_time"]).microsecond == 0 for item in items)
    assert any(datetime.fromisoformat(item["create_time"]).microsecond for item in items)


@pytest.mark.parametrize(("times", "ending"), [("Z", "Z"), ("+00:00", "+00:00"), ("naive", ""), ("absent", None)])
async def test_times_can_be_set_to_one_form(client: Client, times: str, ending: str | None) -> None:
    """The setting gives every item the same form, those of compatible servers included."""
    await client.knob("PATCH", "/simulated/settings", {"times": times})
    item = (await client.ask("GET", "conversations?limit=1")).json["items"][0]
    assert ("update_time" in item) == (ending is not None)
    assert item["create_time"][26:] == (ending or "")


async def test_total_looks_one_ahead(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """While there is more, the total is one beyond what was sent; at the end it is exact."""
    chatgpt.alice.everything.clear()
    chatgpt.alice.many(25)
    first = (await client.ask("GET", "conversations?offset=0&limit=10&order=updated")).json
    last = (await client.ask("GET", "conversations?offset=20&limit=10&order=updated")).json
    assert (len(first["items"]), first["total"], first["has_missing_conversations"]) == (10, 11, False)
    assert (len(last["items"]), last["total"], last["offset"], last["limit"]) == (5, 25, 20, 10)


@pytest.mark.parametrize("query", ["limit=101", "limit=0", "limit=ten", "offset=-1"])
async def test_a_bad_page_is_unprocessable(client: Client, query: str) -> None:
    """The detail of a 422 is an array that names the parameter."""
    reply = await client.ask("GET", f"conversations?{query}")
    assert reply.status == 422
    assert reply.json["detail"][0]["loc"] == ["query", query.partition("=")[0]]
    assert reply.json["detail"][0].keys() == {"loc", "msg", "type"}


async def test_the_archive_is_a_list_of_its_own(client: Client) -> None:
    """Archived conversations are listed when asked for, and only they."""
    items = (await client.ask("GET", "conversations?is_archived=true&order=updated")).json["items"]
    assert [item["title"] for item in items] == ["Old flat: list of defects"]


async def test_projects_and_their_conversations_are_listed_apart(client: Client) -> None:
    """The sidebar names the projects, and a project lists what the plain list leaves out."""
    sidebar = (
        await client.ask("GET", "gizmos/snorlax/sidebar?owned_only=true&conversations_per_gizmo=0&limit=20")
    ).json
    project = sidebar["items"][0]["gizmo"]["gizmo"]
    assert (project["id"][:4], project["display"]["name"], sidebar["cursor"]) == ("g-p-", "Garden", None)
    inside = (await client.ask("GET", f"gizmos/{project['id']}/conversations?cursor=0&limit=50")).json
    assert [item["title"] for item in inside["items"]] == ["What to plant after tomatoes"]
    assert inside["cursor"] is None


async def test_a_projects_cursor_leads_to_its_end(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """Following the opaque cursor gives each conversation once."""
    project = chatgpt.bob.add_project("Bread")
    made = [chatgpt.bob.add_conversation(f"Loaf {n}", [("Rye?", "Rye.")], project=project).id for n in range(5)]
    seen, cursor = [], "0"
    while cursor:
        path = f"gizmos/{project}/conversations?limit=2&cursor={cursor}"
        page = (await client.ask("GET", path, token=chatgpt.bob.token())).json
        seen += [item["id"] for item in page["items"]]
        cursor = page["cursor"]
    assert seen == made[::-1]


async def test_models_and_files_are_there(client: Client) -> None:
    """Models have their five keys; a file that is not there is an error with status 200."""
    models = (await client.ask("GET", "models")).json["models"]
    assert {"slug", "max_tokens", "title", "description", "tags"} == models[0].keys()
    for path in ("files/download/file-abc", "files/file_abc/download"):
        assert (await client.ask("GET", path)).json["status"] == "error"


# One conversation


async def test_a_conversation_is_a_whole_tree(client: Client, some: SimConversation) -> None:
    """The detail has float times and nodes whose parents and children agree."""
    detail = (await client.ask("GET", f"conversation/{some.id}")).json
    assert isinstance(detail["update_time"], float)
    assert detail["conversation_id"] == some.id
    assert detail["current_node"] in detail["mapping"]
    for node in detail["mapping"].values():
        assert node["parent"] is None or node["id"] in detail["mapping"][node["parent"]]["children"]


async def test_the_kinds_of_404_say_why(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """Unknown, deleted and other people's conversations have codes of their own; writing gets the older string."""
    deleted = next(kept.id for kept in chatgpt.alice.everything if not kept.is_visible)
    ids = (UNKNOWN_ID, deleted, chatgpt.bob.conversations[0].id)
    replies = [await client.ask("GET", f"conversation/{conversation_id}") for conversation_id in ids]
    assert [reply.status for reply in replies] == [404, 404, 404]
    codes = [reply.json["detail"]["code"] for reply in replies]
    assert codes == ["conversation_not_found", "conversation_deleted", "conversation_inaccessible"]
    older = await client.ask("PATCH", f"conversation/{UNKNOWN_ID}", {"title": "x"})
    assert (older.status, older.json) == (404, {"detail": "Conversation not found"})


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "conversations", {}),
        ("PATCH", "conversations", {"is_visible": "no"}),
        ("PATCH", "conversations", "not an object"),
        ("PATCH", "conversations", None),
        ("POST", "conversation/gen_title/ID", {"model": "auto"}),
        ("PATCH", "conversation/ID", {"title": 7}),
    ],
)
async def test_edits_of_the_wrong_shape_are_unprocessable(
    client: Client, some: SimConversation, method: str, path: str, body: Any
) -> None:
    """Nothing is edited."""
    before = json.dumps(some.detail())
    assert (await client.ask(method, path.replace("ID", some.id), body)).status == 422
    assert json.dumps(some.detail()) == before


async def test_projects_that_are_not_there(client: Client) -> None:
    """An unknown project is not found, a made-up cursor unprocessable."""
    assert (await client.ask("GET", "gizmos/g-p-0/conversations")).status == 404
    assert (await client.ask("GET", "gizmos/snorlax/sidebar?cursor=3!")).status == 422


async def test_without_an_order_the_list_is_by_creation(client: Client) -> None:
    """Only order=updated sorts by the last update."""
    items = (await client.ask("GET", "conversations?limit=100")).json["items"]
    created = [datetime.fromisoformat(item["create_time"]) for item in items]
    assert created == sorted(created, reverse=True)


async def test_unknown_paths_and_methods_answer_json(client: Client) -> None:
    """Nothing is answered in another form than upstream's."""
    assert (await client.ask("GET", "nothing")).json == {"detail": "Not Found"}
    assert (await client.ask("PUT", "models")).json == {"detail": "Method Not Allowed"}


async def test_renaming_archiving_and_deleting(client: Client, some: SimConversation) -> None:
    """Each change answers success and shows in what is read afterwards."""
    before = some.update_time
    success = {"success": True}
    assert (await client.ask("PATCH", f"conversation/{some.id}", {"title": 'Say "hi"'})).json == success
    assert (some.title, some.update_time > before) == ('Say "hi"', True)
    assert (await client.ask("PATCH", f"conversation/{some.id}", {"is_archived": True})).json == success
    assert some.is_archived
    assert (await client.ask("PATCH", f"conversation/{some.id}", {"is_visible": False})).json == success
    assert (await client.ask("GET", f"conversation/{some.id}")).status == 404


async def test_deleting_all_leaves_other_accounts_alone(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """One account's list becomes empty, another's stays."""
    assert (await client.ask("PATCH", "conversations", {"is_visible": False})).json == {"success": True}
    assert (await client.ask("GET", "conversations")).json["items"] == []
    assert len(chatgpt.bob.conversations) == 3


async def test_a_title_is_made_from_the_first_prompt(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """A new conversation is called New chat until it is given a title."""
    conversation_id = (await client.prompt("how do I prune roses?")).events[-1]["conversation_id"]
    assert chatgpt.alice.conversations[0].title == "New chat"
    asked_for = {"message_id": PROMPT_ID, "model": "auto"}
    reply = await client.ask("POST", f"conversation/gen_title/{conversation_id}", asked_for)
    assert reply.json == {"title": "How do I prune roses"}


# Asking


async def test_an_answer_grows_until_it_is_whole(client: Client) -> None:
    """First the prompt comes back under its own id, then each event repeats the text so far, then [DONE]."""
    reply = await client.prompt("What is a fjord?")
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    assert reply.events[0]["message"]["id"] == PROMPT_ID
    texts = [part(message) for message in reply.answers]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert len(texts) > 3
    assert texts[-1] == answer_to("What is a fjord?")
    assert reply.body.endswith(b"data: [DONE]\n\n")


async def test_the_last_event_is_the_stored_message(client: Client) -> None:
    """What was streamed last and what is read later are the same object, field by field."""
    last = (await client.prompt()).events[-1]
    detail = (await client.ask("GET", f"conversation/{last['conversation_id']}")).json
    assert detail["mapping"][detail["current_node"]]["message"] == last["message"]
    assert last["message"]["metadata"]["finish_details"]["type"] == "stop"
    assert (last["message"]["end_turn"], last["message"]["recipient"]) == (True, "all")


async def test_going_on_in_a_conversation(client: Client, some: SimConversation) -> None:
    """The prompt hangs below the parent that was named, and the conversation moves to the top."""
    parent, before = some.current_node, some.update_time
    reply = await client.prompt(conversation_id=some.id, parent_message_id=parent, model="gpt-4o")
    assert some.mapping[PROMPT_ID]["parent"] == parent
    assert some.current_node == reply.answers[-1]["id"]
    assert some.update_time > before
    assert reply.answers[-1]["metadata"]["model_slug"] == "gpt-4o"


@pytest.mark.parametrize("cuts", [1, 2, 3])
async def test_a_cut_answer_is_continued_below_itself(client: Client, cuts: int) -> None:
    """Each continuation is a new node below the one that was cut; joined they are the whole answer, seams intact."""
    prompt = f"Tell me everything [[max_tokens:{cuts}]]"
    reply = await client.prompt(prompt)
    pieces = [part(reply.answers[-1])]
    for _ in range(cuts):
        cut = reply.answers[-1]
        assert cut["metadata"]["finish_details"] == {"type": "max_tokens"}
        where = {"conversation_id": reply.events[-1]["conversation_id"], "parent_message_id": cut["id"]}
        reply = await client.prompt(action="continue", messages=None, **where)
        assert reply.answers[-1]["metadata"]["parent_id"] == cut["id"]
        pieces.append(part(reply.answers[-1]))
    assert pieces == segments(prompt, cuts=cuts)
    assert pieces[0].endswith("\n")
    assert pieces[1].startswith("\n")
    assert reply.answers[-1]["metadata"]["finish_details"]["type"] == "stop"


async def test_a_fault_cuts_answers_too(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """The limit of tokens can be met by any prompt."""
    chatgpt.fault("conversation", max_tokens=1)
    assert (await client.prompt()).answers[-1]["metadata"]["finish_details"] == {"type": "max_tokens"}


async def test_a_variant_is_a_sibling(client: Client, some: SimConversation) -> None:
    """Asked again, the prompt is answered beside the answer there was."""
    first = some.current_node
    reply = await client.prompt(action="variant", messages=None, conversation_id=some.id, parent_message_id=first)
    made = some.mapping[reply.answers[-1]["id"]]
    assert made["parent"] == some.mapping[first]["parent"]


async def test_asking_where_nothing_is_answers_404(client: Client, some: SimConversation) -> None:
    """An unknown conversation and an unknown parent in a known one are both not found."""
    assert (await client.prompt(conversation_id=UNKNOWN_ID)).status == 404
    assert (await client.prompt(conversation_id=some.id)).status == 404


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"action": "shout"}, "action"),
        ({"messages": []}, "messages"),
        ({"messages": [{"id": 1}]}, "id"),
        ({"messages": [{"id": "x", "author": {"role": "tool"}}]}, "role"),
        ({"messages": [{"id": "x", "author": {"role": "user"}}]}, "content"),
        ({"messages": [{"id": "x", "author": {"role": "user"}, "content": {"content_type": "text"}}]}, "parts"),
        ({"parent_message_id": None}, "parent_message_id"),
        ({"conversation_id": 7}, "conversation_id"),
        ({"model": ["gpt-5"]}, "model"),
        ({"action": "continue"}, "conversation_id"),
    ],
)
async def test_a_prompt_of_the_wrong_shape_is_unprocessable(client: Client, fields: dict[str, Any], where: str) -> None:
    """The 422 names the field that is wrong, and nothing is kept."""
    reply = await client.prompt(**fields)
    assert (reply.status, reply.json["detail"][0]["loc"][-1]) == (422, where)
    assert (await client.ask("POST", "conversation", [1])).status == 422


async def test_a_prompt_sent_again_is_kept_once(client: Client, some: SimConversation) -> None:
    """Under the same id it is the same node, and the second answer a sibling of the first."""
    parent = some.current_node
    replies = [await client.prompt(conversation_id=some.id, parent_message_id=parent) for _ in range(2)]
    assert some.mapping[PROMPT_ID]["children"] == [reply.answers[-1]["id"] for reply in replies]


async def test_an_answer_that_is_whole_has_nothing_to_continue(client: Client, some: SimConversation) -> None:
    """Continuing it adds a short remark below."""
    last = some.current_node
    reply = await client.prompt(action="continue", messages=None, conversation_id=some.id, parent_message_id=last)
    assert part(reply.answers[-1]) == "That was all I had to say about it."


async def test_where_nobody_asked_nothing_is_answered_again(client: Client, some: SimConversation) -> None:
    """A variant needs a prompt above."""
    root = next(iter(some.mapping))
    reply = await client.prompt(action="variant", messages=None, conversation_id=some.id, parent_message_id=root)
    assert reply.status == 422


async def test_one_message_at_a_time(chatgpt: SimulatedChatGPT, client: Client) -> None:
    """A second prompt while one is being answered gets 429; another account may ask, and so may the same one later."""
    held = chatgpt.fault("conversation", hold_after_events=1, times=1)
    first = asyncio.create_task(client.prompt("one"))
    await held.until_held()
    second = await client.prompt("two")
    other = await client.ask("POST", "conversation", asked("three"), token=chatgpt.bob.token())
    held.release()
    assert (second.status, other.status, (await first).status) == (429, 200, 200)
    assert second.json["detail"].startswith("Only one message at a time. ")
    assert (await client.prompt("four")).status == 200


# The library and what tests do to it


def kinds(conversation: SimConversation) -> set[str]:
    """The types of content in a conversation's tree."""
    nodes = conversation.mapping.values()
    return {node["message"]["content"]["content_type"] for node in nodes if node.get("message")}


def test_the_library_is_the_same_in_every_run(clock: Clock) -> None:
    """Ids, texts and times depend on nothing but the clock."""
    once, again = (SimulatedChatGPT(now=clock).alice.everything for _ in range(2))
    assert [conversation.detail() for conversation in once] == [conversation.detail() for conversation in again]


def test_the_library_holds_every_kind_of_content(chatgpt: SimulatedChatGPT) -> None:
    """What the facts list of content occurs, and one type that nobody has seen."""
    found = set().union(*(kinds(conversation) for conversation in chatgpt.alice.everything))
    assert found >= {
        "text", "code", "tether_quote", "multimodal_text", "user_editable_context", "tether_browsing_display",
        "execution_output", "sonic_webpage", "thoughts", "reasoning_recap", "interactive_basket",
    }  # fmt: skip


def test_the_library_holds_every_odd_shape(chatgpt: SimulatedChatGPT) -> None:
    """A null title, one of two lines, a root of 2023, 300 messages, forks, citations old and new, a canvas, a GPT."""
    everything = chatgpt.alice.everything
    assert any(conversation.title is None for conversation in everything)
    assert any("\n" in (conversation.title or "") for conversation in everything)
    assert any({"id", "children"} == node.keys() for each in everything for node in each.mapping.values())
    assert any(len(each.branch()) == 301 for each in everything)
    assert any(len(node["children"]) == 3 for each in everything for node in each.mapping.values())
    assert any(each.gizmo_type == "gpt" for each in everything)
    written = json.dumps([each.mapping for each in everything], ensure_ascii=False)
    assert all(
        mark in written for mark in ("\ue200cite\ue202", "【11†source】", "canmore.create_textdoc", "image_asset")
    )


def test_the_librarys_times_lie_in_the_past(chatgpt: SimulatedChatGPT, clock: Clock) -> None:
    """Some conversations are of today, the oldest is almost three years old, none is of tomorrow."""
    ages = [(clock() - conversation.update_time) / 86_400 for conversation in chatgpt.alice.everything]
    assert min(ages) > 0
    assert len([age for age in ages if age < 0.5]) >= 3
    assert 900 < max(ages) < 1100


def test_changes_move_a_conversation_to_the_top(chatgpt: SimulatedChatGPT) -> None:
    """Every helper of tests advances update_time by a second at least, even while the clock stands still."""
    conversation = chatgpt.alice.conversations[-1]
    for change in (
        lambda: conversation.add_turn("More?", "No."),
        conversation.regenerate,
        lambda: conversation.edit_prompt("More, please?", "Yes."),
        lambda: conversation.rename("Renamed"),
    ):
        before = int(conversation.update_time)
        change()
        assert int(conversation.update_time) > before
    assert chatgpt.alice.conversations[0] is conversation
    assert len(conversation.mapping[conversation.last("user")]["children"]) == 1


def test_many_conversations_are_made_fast(chatgpt: SimulatedChatGPT) -> None:
    """The last one made is the newest of them."""
    made = chatgpt.bob.many(1000)
    assert chatgpt.bob.conversations[0] is made[-1]
    assert len({conversation.id for conversation in made}) == 1000
