# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole server over an API key: the same routes, conversations that live in the mirror, nothing to sync with."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from chatgpt_rest.app import running
from chatgpt_rest.config import Config
from chatgpt_rest.context import MIRROR_OF_ALL
from chatgpt_rest.control import Control, control_over
from chatgpt_rest.errors import BadRequest, Conflict, NotFound, Unauthorized
from chatgpt_rest.listener import listening
from chatgpt_rest.mirror import Mirror
from chatgpt_rest.upstream.simulated import Reply, SimulatedChatGPT, SimulatedOpenAI
from tests.house import Answered, Client, ManualClock, make_config, open_house
from tests.process import command, environment, started
from tests.rows import rows

OPENAI = {"upstream__kind": "openai", "upstream__model": "gpt-large"}


@dataclass
class House:
    """A running server with an API behind it, and one account with a local key."""

    app: web.Application
    config: Config
    clock: ManualClock
    api: SimulatedOpenAI
    client: Client
    control: Control

    @property
    def mirror(self) -> Mirror:
        return self.app[MIRROR_OF_ALL]

    async def ask(self, prompt: str, conversation_id: str | None = None, **more: Any) -> dict[str, Any]:
        """The answer's message object."""
        path = "new" if conversation_id is None else f"{conversation_id}/ask"
        answer = await self.client.post(f"/conversations/{path}", json={"prompt": prompt, **more})
        assert answer.status == 201, answer.body
        found: dict[str, Any] = answer.json["response"]
        return found

    async def messages(self, conversation_id: str) -> list[str]:
        """What `GET messages` shows, words alone."""
        answer = await self.client.get(f"/conversations/{conversation_id}/messages")
        assert answer.status == 200, answer.body
        return [each["message"] for each in answer.json]


@asynccontextmanager
async def open_keyed(
    folder: Path, api: SimulatedOpenAI, base_url: str, clock: ManualClock, **settings: str
) -> AsyncIterator[House]:
    """Start the server with the API's key. Entering again is a restart; the account and its key are made where they
    are missing.
    """
    settings.setdefault("upstream__api_key", api.key)
    config = make_config(folder, base_url, **OPENAI, **settings)
    async with (
        running(config, clock=clock) as app,
        listening(app, config.server) as listener,
        aiohttp.ClientSession() as session,
    ):
        control = control_over(app, clock)
        made = await control.create_key(f"key-{len(await control.list_keys())}", None)
        yield House(app, config, clock, api, Client(session, listener.address, made["key"]), control)


@asynccontextmanager
async def opened_with(config: Config, clock: ManualClock, authorization: str | None) -> AsyncIterator[Client]:
    """Start the server with another configuration, for a client that has a key already."""
    async with (
        running(config, clock=clock) as app,
        listening(app, config.server) as listener,
        aiohttp.ClientSession() as session,
    ):
        yield Client(session, listener.address, authorization)


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
async def house(tmp_path: Path, api: SimulatedOpenAI, base_url: str, clock: ManualClock) -> AsyncIterator[House]:
    """The server with an empty mirror and an API key."""
    async with open_keyed(tmp_path, api, base_url, clock) as opened:
        yield opened


def files_with(folder: Path, secret: str) -> list[str]:
    """The files beside the mirror that this stands in."""
    return [file.name for file in folder.iterdir() if file.is_file() and secret.encode() in file.read_bytes()]


def refused(answer: Answered, status: int, code: str) -> bool:
    """Whether it says no in this way."""
    return (answer.status, answer.json["code"]) == (status, code)


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


async def test_the_default_model_has_to_be_one(
    tmp_path: Path, api: SimulatedOpenAI, base_url: str, clock: ManualClock
) -> None:
    """`auto` is ChatGPT's: who names no model is told to, and nothing of it is kept."""
    async with open_keyed(tmp_path, api, base_url, clock) as house:
        pass
    config = replace(house.config, upstream=replace(house.config.upstream, model="auto"))
    async with opened_with(config, clock, house.client.authorization) as client:
        answer = await client.post("/conversations/new", json={"prompt": "Hello?"})
        assert refused(answer, 400, "model_not_found")
        assert (await client.get("/conversations")).json == []
    assert api.asked == []


async def test_an_answer_outlives_a_restart(
    tmp_path: Path, api: SimulatedOpenAI, base_url: str, clock: ManualClock
) -> None:
    """The mirror is the conversation's home, and the next process goes on in it."""
    async with open_keyed(tmp_path, api, base_url, clock) as house:
        first = await house.ask("One?")
    async with open_keyed(tmp_path, api, base_url, clock) as house:
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
    tmp_path: Path, api: SimulatedOpenAI, base_url: str, clock: ManualClock
) -> None:
    """They need nothing upstream."""
    async with open_keyed(tmp_path, api, base_url, clock, rate_limit__requests_per_hour="1") as house:
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
    tmp_path: Path, api: SimulatedOpenAI, base_url: str, clock: ManualClock, chatgpt: SimulatedChatGPT
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
    async with open_keyed(tmp_path, api, base_url, clock) as house:
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
    tmp_path: Path, api: SimulatedOpenAI, base_url: str, clock: ManualClock, chatgpt: SimulatedChatGPT
) -> None:
    """ChatGPT knows nothing of it, and the refusal says so."""
    async with open_keyed(tmp_path, api, base_url, clock) as house:
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


# --------------------------------------------------------------------------------------------------------- who may ask


async def test_access_tokens_open_nothing(
    tmp_path: Path, api: SimulatedOpenAI, base_url: str, clock: ManualClock, chatgpt: SimulatedChatGPT
) -> None:
    """Not even one that ChatGPT accepted before; the refusal names local keys, and no token comes to the API."""
    async with chatgpt.serving() as url, open_house(tmp_path, chatgpt, url, clock) as before:
        assert (await before.client.get("/conversations")).status == 200
    async with open_keyed(tmp_path, api, base_url, clock) as house:
        for token in (before.client.authorization, chatgpt.bob.token(), "anything"):
            answer = await house.client.as_(token).get("/conversations")
            assert refused(answer, 401, "access_token_invalid")
            assert "local API key" in answer.json["error"]
        with pytest.raises(Unauthorized, match="local API key"):
            await house.control.give_token(chatgpt.alice.token())
    assert api.received == []


async def test_the_first_key_makes_the_first_account(house: House) -> None:
    """Nobody else could: an API tells of no accounts."""
    assert [each["id"] for each in await house.control.list_accounts()] == ["me"]
    assert (await house.control.create_key("phone", None))["account"] == "me"


async def test_a_key_can_begin_another_account(house: House) -> None:
    """By a name that can be an id; what belongs to one is not the other's."""
    made = await house.control.create_key("bob", "bob")
    await house.ask("Mine?")
    assert (await house.client.as_(made["key"]).get("/conversations")).json == []
    with pytest.raises(NotFound, match="several accounts"):
        await house.control.create_key("which", None)
    for name in ("../etc", "", "a b", "cgrt_" + "x" * 43):
        with pytest.raises(BadRequest):
            await house.control.create_key("bad", name)


async def test_at_chatgpt_a_key_begins_no_account(
    tmp_path: Path, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """There an account is whoever's token was accepted."""
    async with chatgpt.serving() as url, open_house(tmp_path, chatgpt, url, clock) as house:
        with pytest.raises(NotFound):
            await control_over(house.app, clock).create_key("laptop", "bob")


async def test_without_an_api_key_reading_goes_on(
    tmp_path: Path, api: SimulatedOpenAI, base_url: str, clock: ManualClock
) -> None:
    """Asking says what is missing, and where to put it; a file that comes later is found."""
    file = tmp_path / "credentials" / "api_key"
    async with open_keyed(tmp_path, api, base_url, clock) as house:
        pass
    config = replace(house.config, api_key=None, api_key_file=file)
    async with opened_with(config, clock, house.client.authorization) as client:
        assert (await client.get("/conversations")).status == 200
        answer = await client.post("/conversations/new", json={"prompt": "Hello?"})
        assert refused(answer, 503, "no_api_key")
        assert "CHATGPT_REST_UPSTREAM__API_KEY" in answer.json["error"]
        file.parent.mkdir()
        file.write_text("a b\n")
        answer = await client.post("/conversations/new", json={"prompt": "Hello?"})
        assert "malformed" in answer.json["error"]
        file.write_text(f"{api.key}\n")
        assert (await client.post("/conversations/new", json={"prompt": "Hello?"})).status == 201


async def test_a_refused_key_is_not_tried_again_at_once(
    tmp_path: Path, api: SimulatedOpenAI, base_url: str, clock: ManualClock
) -> None:
    """The reason is told and remembered; ten minutes later it is tried once more, and what was wrong is forgotten."""
    async with open_keyed(tmp_path, api, base_url, clock, upstream__api_key="sk-hunter2-and-so-on") as house:
        for _ in range(3):
            answer = await house.client.post("/conversations/new", json={"prompt": "Hello?"})
            assert refused(answer, 503, "api_key_refused")
            assert "hunter2" not in str(answer.body)
        assert len(api.received) == 1
        sync = await house.client.get("/sync")
        assert sync.json["last_error"]["code"] == "api_key_refused"
        api.key = "sk-hunter2-and-so-on"
        clock.move(seconds=601)
        await house.ask("Hello?")
        assert (await house.client.get("/sync")).json["last_error"] is None


# ------------------------------------------------------------------------------------------------------- sync, budget


async def test_there_is_nothing_to_sync_with(house: House, api: SimulatedOpenAI) -> None:
    """The state says so, asking for a pass is a conflict, and nothing leaves of the server's own accord."""
    state = (await house.client.get("/sync")).json
    assert (state["state"], state["reason"], state["enabled"]) == ("paused", "sync_off", False)
    assert state["plan"] == {"requests_needed": 0, "finishes_at": None}
    assert (state["token_expires_at"], state["token_expires_soon"]) == (None, False)
    assert refused(await house.client.post("/sync"), 409, "sync_off")
    with pytest.raises(Conflict):
        await house.control.sync_outlook(None, is_full=False)
    assert api.received == []


async def test_the_budget_counts_these_requests(
    tmp_path: Path, api: SimulatedOpenAI, base_url: str, clock: ManualClock
) -> None:
    """As ChatGPT's: tokens taken are requests received, and they come back after an hour."""
    async with open_keyed(tmp_path, api, base_url, clock, rate_limit__requests_per_hour="2") as house:
        await house.ask("One?")
        assert (await house.client.get("/budget")).json["remaining"] == 1
        answer = await house.client.post("/conversations/new", json={"prompt": "Two?"})
        assert answer.headers["RateLimit"].startswith('"hour";r=0;')
        refusal = await house.client.post("/conversations/new", json={"prompt": "Three?"})
        assert refused(refusal, 500, "rate_limit_exceeded")
        assert len(api.received) == 2
        clock.move(seconds=3_601)
        await house.ask("Three?")


async def test_no_limit_lets_everything_through_and_counts_it(
    tmp_path: Path, api: SimulatedOpenAI, base_url: str, clock: ManualClock
) -> None:
    """Nothing is told of what is left, and the log of requests is written as ever."""
    async with open_keyed(tmp_path, api, base_url, clock, rate_limit__requests_per_hour="0") as house:
        for number in range(60):
            answer = await house.client.post("/conversations/new", json={"prompt": f"{number}?"})
            assert answer.status == 201
            assert "RateLimit" not in answer.headers
        budget = (await house.client.get("/budget")).json
        assert (budget["capacity"], budget["remaining"], budget["used"]) == (None, None, 60)
        assert (budget["resets_at"], budget["full_at"]) == (None, None)
        assert (await house.client.get("/sync")).json["budget"]["remaining"] is None
    logged = rows(tmp_path / "mirror.sqlite", "select method, path, outcome from upstream_request")
    assert logged == [("POST", "chat/completions", "200")] * 60


async def test_upstreams_own_limit_holds_without_one_of_ours(
    tmp_path: Path, api: SimulatedOpenAI, base_url: str, clock: ManualClock
) -> None:
    """Credit that is used up is told in upstream's words, and nothing is sent until it may be back."""
    quota = {"error": {"message": "You exceeded your current quota.", "type": "insufficient_quota", "code": None}}
    api.replies.append(Reply(status=429, body=quota))
    async with open_keyed(tmp_path, api, base_url, clock, rate_limit__requests_per_hour="0") as house:
        for _ in range(2):
            answer = await house.client.post("/conversations/new", json={"prompt": "One?"})
            assert refused(answer, 500, "upstream_rate_limit")
            assert answer.json["error"] == quota
            assert answer.headers["Retry-After"] == "300"
        assert (await house.client.get("/budget")).json["remaining"] == 0
        assert len(api.received) == 1
        clock.move(seconds=301)
        await house.ask("One?")


async def test_a_limit_of_one_model_leaves_the_others(house: House, api: SimulatedOpenAI) -> None:
    """Rates are counted for each model by itself."""
    rate = {"error": {"message": "Rate limit reached.", "type": "requests", "code": "rate_limit_exceeded"}}
    await house.ask("Zero?", model="gpt-small")
    api.replies.append(Reply(status=429, body=rate, headers={"Retry-After": "7"}))
    for _ in range(2):
        answer = await house.client.post("/conversations/new", json={"prompt": "One?"})
        assert refused(answer, 500, "model_cap_exceeded")
        assert answer.headers["Retry-After"] == "7"
    await house.ask("One?", model="gpt-small")


# ------------------------------------------------------------------------------------------------------ as a process


async def test_a_kill_in_mid_answer_keeps_what_came_and_asks_nothing_again(
    tmp_path: Path, api: SimulatedOpenAI, base_url: str
) -> None:
    """The prompt and the words so far are there for the next process; the key is in no output and no file."""
    environ = environment(
        tmp_path,
        base_url,
        {
            "CHATGPT_REST_UPSTREAM__KIND": "openai",
            "CHATGPT_REST_UPSTREAM__MODEL": "gpt-large",
            "CHATGPT_REST_UPSTREAM__API_KEY": api.key,
            "CHATGPT_REST_LOG__LEVEL": "DEBUG",
            "OPENAI_LOG": "debug",
        },
    )
    made = await command("key", "create", "laptop", environ=environ)
    assert made.status == 0, made.err
    headers = {"Authorization": made.out.strip()}
    api.replies.append(Reply("one two three four", hold=asyncio.Event(), hold_after=2))
    async with started(environ=environ) as server, aiohttp.ClientSession(headers=headers) as session:
        address = await server.address()
        async with asyncio.timeout(30):
            asking = asyncio.create_task(session.post(f"{address}/conversations/new", json={"prompt": "Count!"}))
            database = tmp_path / "mirror.sqlite"
            while not rows(database, "select 1 from node where completeness = 1"):
                await asyncio.sleep(0.05)
            await server.end(signal.SIGKILL)
            with pytest.raises(aiohttp.ClientError):
                await asking
        output = server.text
    async with started(environ=environ) as server, aiohttp.ClientSession(headers=headers) as session:
        address = await server.address()
        async with session.get(f"{address}/conversations") as response:
            (listed,) = await response.json()
        async with session.get(f"{address}/conversations/{listed['id']}/messages") as response:
            messages = await response.json()
        check = await command("check", environ=environ)
        status = await server.end(signal.SIGTERM)
        output += server.text
    assert status == 0
    assert [(each["message"], each.get("is_partial")) for each in messages] == [("Count!", None), ("one two ", True)]
    assert len(api.asked) == 1
    assert "an API key is configured" in check.out
    assert "conversations live here" in check.out
    assert api.key not in output + check.out + check.err + made.err
    assert files_with(tmp_path, api.key) == []


async def test_the_sync_command_says_why_it_does_nothing(
    tmp_path: Path, api: SimulatedOpenAI, base_url: str, clock: ManualClock
) -> None:
    """Where no server runs, too."""
    environ = environment(
        tmp_path,
        base_url,
        {"CHATGPT_REST_UPSTREAM__KIND": "openai", "CHATGPT_REST_UPSTREAM__API_KEY": api.key},
    )
    done = await command("sync", environ=environ)
    assert done.status == 1
    assert "keeps no conversations" in done.out + done.err
    assert api.received == []
