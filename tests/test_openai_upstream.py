# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole server over an API key: the same routes, conversations that live in the mirror, nothing to sync with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from chatgpt_rest.upstream.simulated import Reply, SimulatedChatGPT, SimulatedOpenAI
from tests.house import ManualClock, open_house
from tests.keyed import House, open_keyed, opened_with, refused
from tests.rows import rows


@pytest.fixture
async def house(tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock) -> AsyncIterator[House]:
    """The server with an empty mirror and an API key."""
    async with open_keyed(tmp_path, api, api_url, clock) as opened:
        yield opened


# ----------------------------------------------------------------------------------------------------------- asking


async def test_a_new_conversation_is_asked_and_kept(house: House) -> None:
    """The answer comes as ever, and the conversation is in the list, under the prompt's first words."""
    asked = await house.ask("Which planet has the most moons?")
    assert asked["message"] == "You said: Which planet has the most moons?"
    assert (asked["model"], asked["finish_details"], asked["end_turn"]) == ("gpt-large", "stop", True)
    listed = await house.client.get("/conversations")
    assert [(each["id"], each["title"]) for each in listed.json] == [
        (asked["conversation_id"], "Which planet has the most moons?")
    ]
    assert "X-Mirror-Complete" not in listed.headers


async def test_each_ask_brings_exactly_its_branch(house: House, api: SimulatedOpenAI) -> None:
    """Everything before it, oldest first, and nothing else."""
    first = await house.ask("One?")
    await house.ask("Elsewhere?")
    await house.ask("Two?", first["conversation_id"])
    assert api.asked[-1] == [("user", "One?"), ("assistant", "You said: One?"), ("user", "Two?")]
    assert await house.messages(first["conversation_id"]) == ["One?", "You said: One?", "Two?", "You said: Two?"]


async def test_an_ask_below_an_earlier_message_is_a_branch(house: House, api: SimulatedOpenAI) -> None:
    """What was said after that message is not sent along, and stays in the tree."""
    first = await house.ask("One?")
    await house.ask("Two?", first["conversation_id"])
    await house.ask("Zwei?", first["conversation_id"], parent_id=first["parent_id"])
    assert api.asked[-1] == [("user", "One?"), ("assistant", "You said: One?"), ("user", "Zwei?")]
    assert await house.messages(first["conversation_id"]) == ["One?", "You said: One?", "Zwei?", "You said: Zwei?"]
    whole = await house.client.get(f"/conversations/{first['conversation_id']}")
    assert len([node for node in whole.json["mapping"].values() if node["message"]]) == 6


async def test_two_conversations_are_answered_side_by_side(house: House, api: SimulatedOpenAI) -> None:
    """An API writes any number of answers at once."""
    held = asyncio.Event()
    api.replies.extend([Reply("slow", hold=held), Reply("fast")])
    slow = asyncio.create_task(house.ask("Slow?"))
    await api.was_asked.wait()
    assert (await house.ask("Fast?"))["message"] == "fast"
    held.set()
    assert (await slow)["message"] == "slow"


async def test_an_answer_that_was_cut_is_not_continued(house: House, api: SimulatedOpenAI) -> None:
    """The API could only begin another one: the cut answer stands, and says that it is cut."""
    api.replies.append(Reply("One and", finish="length"))
    asked = await house.ask("Count!", autocontinue=True)
    assert (asked["message"], asked["finish_details"]) == ("One and", "max_tokens")
    assert len(api.asked) == 1


async def test_a_model_that_is_named_is_asked(house: House, api: SimulatedOpenAI) -> None:
    """Per request, from upstream's own list."""
    assert (await house.ask("Hello?", model="gpt-small"))["model"] == "gpt-small"
    answer = await house.client.post("/conversations/new", json={"prompt": "Hello?", "model": "gpt-9"})
    assert refused(answer, 400, "model_not_found")
    assert len(api.asked) == 1


async def test_a_model_is_shown_by_an_id_with_a_slash(house: House, api: SimulatedOpenAI) -> None:
    """OpenRouter's have one: it is taken as it is, and written as `%2F`."""
    api.models = ["maker/model-1"]
    for path in ("maker/model-1", "maker%2Fmodel-1"):
        shown = await house.client.get(f"/v1/models/{path}")
        assert (shown.status, shown.json["id"]) == (200, "maker/model-1")
    unknown = await house.client.get("/v1/models/maker/model-2")
    assert (unknown.status, unknown.json["error"]["code"]) == (404, "model_not_found")
    assert unknown.json["error"]["param"] == "model"


@pytest.mark.parametrize(
    ("told", "code"),
    [(Reply(status=404, body="<html>"), "upstream_unknown_path"), (Reply(status=307), "upstream_unknown_path"),
     (Reply(status=503, body={"error": {"message": "Overloaded."}}), "upstream_refused")],
    ids=["no such path", "a redirect", "a failure"],
)  # fmt: skip
async def test_an_answer_that_never_began_leaves_nothing(
    house: House, api: SimulatedOpenAI, told: Reply, code: str
) -> None:
    """Each try with a mistyped base_url, or with a server that is overloaded, would leave one more stub."""
    api.replies.append(told)
    answer = await house.client.post("/conversations/new", json={"prompt": "Hello?"})
    assert refused(answer, 502, code)
    assert (await house.client.get("/conversations")).json == []
    assert len(api.received) == 1


async def test_the_default_model_has_to_be_one(
    tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock
) -> None:
    """`auto` is ChatGPT's: who names no model is told to, and nothing of it is kept."""
    async with open_keyed(tmp_path, api, api_url, clock) as house:
        pass
    config = replace(house.config, upstream=replace(house.config.upstream, model="auto"))
    async with opened_with(config, clock, house.client.authorization) as client:
        answer = await client.post("/conversations/new", json={"prompt": "Hello?"})
        assert refused(answer, 400, "model_not_found")
        assert (await client.get("/conversations")).json == []
    assert api.asked == []


async def test_an_answer_outlives_a_restart(
    tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock
) -> None:
    """The mirror is the conversation's home, and the next process goes on in it."""
    async with open_keyed(tmp_path, api, api_url, clock) as house:
        first = await house.ask("One?")
    async with open_keyed(tmp_path, api, api_url, clock) as house:
        await house.ask("Two?", first["conversation_id"])
        assert await house.messages(first["conversation_id"]) == ["One?", "You said: One?", "Two?", "You said: Two?"]


async def test_an_answer_that_breaks_off_is_kept_and_built_upon(house: House, api: SimulatedOpenAI) -> None:
    """What came is there, marked, and goes along with the next prompt."""
    api.replies.append(Reply("one two three", reset_after=2))
    answer = await house.client.post("/conversations/new", json={"prompt": "Count!"})
    assert refused(answer, 502, "answer_incomplete")
    conversation_id = answer.json["conversation_id"]
    shown = await house.client.get(f"/conversations/{conversation_id}/messages")
    assert [(each["message"], each.get("is_partial")) for each in shown.json] == [("Count!", None), ("one two ", True)]
    await house.ask("Go on.", conversation_id)
    assert [role for role, _ in api.asked[-1]] == ["user", "assistant", "user"]
    assert api.asked[-1][1][1].strip() == "one two"
    assert len(api.asked) == 2


async def test_a_refused_prompt_leaves_nothing(house: House, api: SimulatedOpenAI) -> None:
    """As with ChatGPT: it was not taken."""
    api.replies.append(Reply(status=400, body={"error": {"message": "Too long.", "code": "context_length_exceeded"}}))
    answer = await house.client.post("/conversations/new", json={"prompt": "Long?"})
    assert refused(answer, 400, "upstream_rejected")
    assert answer.json["error"]["error"]["message"] == "Too long."
    assert (await house.client.get("/conversations")).json == []


async def test_the_same_idempotency_key_asks_once(house: House, api: SimulatedOpenAI) -> None:
    """A retry gets the first answer."""
    headers = {"Idempotency-Key": "k"}
    first = await house.client.post("/conversations/new", json={"prompt": "One?"}, headers=headers)
    second = await house.client.post("/conversations/new", json={"prompt": "One?"}, headers=headers)
    assert first.json == second.json
    assert len(api.asked) == 1


async def test_openais_clients_go_on_in_the_same_conversation(house: House, api: SimulatedOpenAI) -> None:
    """Their history is found in the mirror, upstream gets it once, and the tokens that it counted are passed on."""
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}]
    first = await house.client.post("/v1/chat/completions", json={"model": "gpt-small", "messages": turns})
    answer = first.json["choices"][0]["message"]
    assert (answer["role"], answer["content"]) == ("assistant", "You said: One?")
    assert first.json["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    turns += [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": "Two?"}]
    second = await house.client.post("/v1/chat/completions", json={"model": "gpt-small", "messages": turns})
    assert second.headers["X-Conversation-Id"] == first.headers["X-Conversation-Id"]
    assert api.asked[-1] == [(each["role"], each["content"]) for each in turns]
    assert len((await house.client.get("/conversations")).json) == 1


async def test_an_answer_streams_as_it_comes(house: House, api: SimulatedOpenAI) -> None:
    """Its pieces leave while the API still writes, and the whole object ends them."""
    held = asyncio.Event()
    api.replies.append(Reply("one two three", hold=held, hold_after=2))
    url = f"{house.client.address}/conversations/new"
    headers = {"Authorization": house.client.authorization or "", "Accept": "text/event-stream"}
    async with house.client.session.post(url, json={"prompt": "Count!"}, headers=headers) as response:
        said = b""
        async with asyncio.timeout(10):
            while b"two" not in said:
                said += await response.content.readany()
            held.set()
            said += await response.content.read()
    assert b"three" in said
    assert said.count(b"event: message") == 1


# ------------------------------------------------------------------------------------------------- living in the mirror


async def test_renaming_archiving_and_deleting_are_local(house: House, api: SimulatedOpenAI) -> None:
    """Each answers as ever, and no request leaves."""
    asked = await house.ask("One?")
    path, before = f"/conversations/{asked['conversation_id']}", len(api.received)
    renamed = await house.client.patch(path, json={"title": "Numbers", "is_archived": True})
    assert (renamed.status, renamed.json["title"]) == (200, "Numbers")
    assert (await house.client.get("/conversations")).json == []
    assert (await house.client.delete(path)).status == 204
    assert (await house.client.get(path)).status == 404
    assert len(api.received) == before


async def test_deleting_everything_is_local(house: House, api: SimulatedOpenAI) -> None:
    """`DELETE /conversations/all` empties the list, and can be undone here."""
    asked = await house.ask("One?")
    before = len(api.received)
    assert (await house.client.delete("/conversations/all")).status == 204
    assert (await house.client.get("/conversations")).json == []
    assert len(api.received) == before
    (back,) = await house.control.undelete(None, [], everything=True)
    assert back["id"] == asked["conversation_id"]
    assert await house.messages(asked["conversation_id"]) == ["One?", "You said: One?"]


async def test_a_spent_budget_does_not_stop_edits(
    tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock
) -> None:
    """They need nothing upstream."""
    async with open_keyed(tmp_path, api, api_url, clock, rate_limit__requests_per_hour="1") as house:
        asked = await house.ask("One?")
        answer = await house.client.post("/conversations/new", json={"prompt": "Two?"})
        assert refused(answer, 500, "rate_limit_exceeded")
        path = f"/conversations/{asked['conversation_id']}"
        assert (await house.client.patch(path, json={"title": "x"})).status == 200
        assert (await house.client.delete(path)).status == 204
        assert (await house.client.delete("/conversations/all")).status == 204


@pytest.mark.parametrize("path", ["", "/messages", "/export?format=markdown"])
async def test_an_unknown_conversation_is_not_looked_for(house: House, api: SimulatedOpenAI, path: str) -> None:
    """Nobody else could have it."""
    answer = await house.client.get(f"/conversations/0b1c2d3e-0000-4000-8000-000000000000{path}")
    assert refused(answer, 404, "not_found")
    assert api.received == []


@pytest.mark.parametrize("method", ["PATCH", "DELETE", "POST"])
async def test_an_unknown_conversation_cannot_be_changed(house: House, api: SimulatedOpenAI, method: str) -> None:
    """Neither renamed, nor deleted, nor asked in."""
    path = "/conversations/0b1c2d3e-0000-4000-8000-000000000000" + ("/ask" if method == "POST" else "")
    answer = await house.client.request(method, path, json={"title": "x", "prompt": "x"})
    assert refused(answer, 404, "not_found")
    assert api.received == []


async def test_a_conversation_cannot_be_deleted_while_it_is_answered(house: House, api: SimulatedOpenAI) -> None:
    """The answer would have no place to go."""
    first = await house.ask("One?")
    held = asyncio.Event()
    api.was_asked.clear()
    api.replies.append(Reply(hold=held))
    asking = asyncio.create_task(house.ask("Two?", first["conversation_id"]))
    await api.was_asked.wait()
    answer = await house.client.delete(f"/conversations/{first['conversation_id']}")
    assert refused(answer, 409, "ask_under_way")
    held.set()
    await asking


@pytest.mark.parametrize("form", ["markdown", "html", "json"])
async def test_a_conversation_can_be_exported(house: House, form: str) -> None:
    """In every form, as one of ChatGPT's."""
    asked = await house.ask("Which planet?")
    answer = await house.client.get(f"/conversations/{asked['conversation_id']}/export?format={form}")
    assert answer.status == 200
    assert b"You said: Which planet?" in answer.body


# --------------------------------------------------------------------------------------- what came from ChatGPT before


async def test_a_conversation_of_chatgpts_goes_on_with_the_api(
    tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock, chatgpt: SimulatedChatGPT
) -> None:
    """What was fetched once is all there: asked in, renamed and deleted without ChatGPT. What was only listed says
    so.
    """
    here = chatgpt.alice.add_conversation("Moons", [("Which planet?", "Saturn.")])
    listed = chatgpt.alice.add_conversation("Rings", [("Which else?", "All of them.")])
    async with chatgpt.serving() as url, open_house(tmp_path, chatgpt, url, clock, sync__enabled="false") as before:
        assert (await before.client.get(f"/conversations/{here.id}/messages")).status == 200
        assert len((await before.client.get("/conversations")).json) == 2
    received = chatgpt.received()
    async with open_keyed(tmp_path, api, api_url, clock) as house:
        assert len((await house.client.get("/conversations")).json) == 2
        await house.ask("How many?", here.id)
        assert api.asked == [[("user", "Which planet?"), ("assistant", "Saturn."), ("user", "How many?")]]
        assert (await house.client.patch(f"/conversations/{here.id}", json={"title": "Mine"})).json["title"] == "Mine"
        unread = await house.client.get(f"/conversations/{listed.id}/messages")
        assert refused(unread, 503, "conversation_not_fetched")
        unasked = await house.client.post(f"/conversations/{listed.id}/ask", json={"prompt": "x"})
        assert refused(unasked, 409, "conversation_not_fetched")
        assert (await house.client.delete(f"/conversations/{listed.id}")).status == 204
    assert chatgpt.received() == received
    pending = rows(tmp_path / "mirror.sqlite", "select id, title from conversation where is_title_pending = 1")
    assert pending == [(here.id, "Mine")]


async def test_back_at_chatgpt_an_apis_conversation_is_only_read(
    tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock, chatgpt: SimulatedChatGPT
) -> None:
    """ChatGPT knows nothing of it, and the refusal says so."""
    async with open_keyed(tmp_path, api, api_url, clock) as house:
        await house.control.create_key("alice", chatgpt.alice.user_id)
        key = (await house.control.create_key("alice-2", chatgpt.alice.user_id))["key"]
        client = house.client.as_(key)
        asked = (await client.post("/conversations/new", json={"prompt": "One?"})).json["response"]
    async with chatgpt.serving() as url, open_house(tmp_path, chatgpt, url, clock) as later:
        shown = await later.client.get(f"/conversations/{asked['conversation_id']}/messages")
        assert [each["message"] for each in shown.json] == ["One?", "You said: One?"]
        answer = await later.client.post(f"/conversations/{asked['conversation_id']}/ask", json={"prompt": "Two?"})
        assert refused(answer, 409, "conversation_lives_here")
        assert "API key" in answer.json["error"]
