# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole server over an API key: who may ask, what is counted, what `check` and the commands say."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from chatgpt_rest.app import running
from chatgpt_rest.checkup import checkup
from chatgpt_rest.config import Config
from chatgpt_rest.control import control_over, serve_control
from chatgpt_rest.errors import BadRequest, Conflict, NotFound, StartError, Unauthorized
from chatgpt_rest.model import Secret
from chatgpt_rest.upstream.simulated import Reply, SimulatedChatGPT, SimulatedOpenAI
from tests.house import ManualClock, make_config, open_house
from tests.keyed import OPENAI, House, open_keyed, opened_with, refused
from tests.process import command, environment, started
from tests.rows import rows


@pytest.fixture
async def house(tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock) -> AsyncIterator[House]:
    """The server with an empty mirror and an API key."""
    async with open_keyed(tmp_path, api, api_url, clock) as opened:
        yield opened


def files_with(folder: Path, secret: str) -> list[str]:
    """The files beside the mirror that this stands in."""
    return [file.name for file in folder.iterdir() if file.is_file() and secret.encode() in file.read_bytes()]


# --------------------------------------------------------------------------------------------------------- who may ask


async def test_access_tokens_open_nothing(
    tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock, chatgpt: SimulatedChatGPT
) -> None:
    """Not even one that ChatGPT accepted before; the refusal names local keys, and no token comes to the API."""
    async with chatgpt.serving() as url, open_house(tmp_path, chatgpt, url, clock) as before:
        assert (await before.client.get("/conversations")).status == 200
    async with open_keyed(tmp_path, api, api_url, clock) as house:
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
    tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock
) -> None:
    """Asking says what is missing, and where to put it; a file that comes later is found."""
    file = tmp_path / "credentials" / "api_key"
    async with open_keyed(tmp_path, api, api_url, clock) as house:
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
    tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock
) -> None:
    """The reason is told and remembered; ten minutes later it is tried once more, and what was wrong is forgotten."""
    async with open_keyed(tmp_path, api, api_url, clock, upstream__api_key="sk-hunter2-and-so-on") as house:
        for _ in range(3):
            answer = await house.client.post("/conversations/new", json={"prompt": "Hello?"})
            assert refused(answer, 503, "api_key_refused")
            assert "hunter2" not in str(answer.body)
            assert "give one as CHATGPT_REST_UPSTREAM__API_KEY" in answer.json["error"]
            assert answer.headers["Retry-After"] == "600"
        assert len(api.received) == 1
        sync = await house.client.get("/sync")
        assert sync.json["last_error"]["code"] == "api_key_refused"
        api.key = "sk-hunter2-and-so-on"
        clock.move(seconds=601)
        await house.ask("Hello?")
        assert (await house.client.get("/sync")).json["last_error"] is None


@pytest.mark.parametrize("key", ["", "sk-hunter2"], ids=["none", "one"])
async def test_a_key_that_is_not_used_is_told_at_the_start(
    tmp_path: Path, api_url: str, clock: ManualClock, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    """Who gives one and forgets `kind` would wait for the API's answers in vain."""
    async with running(make_config(tmp_path, api_url, upstream__api_key=key), clock=clock):
        pass
    assert ("an API key is given, and not used" in caplog.text) is bool(key)
    assert "hunter2" not in caplog.text


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
    tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock
) -> None:
    """As ChatGPT's: tokens taken are requests received, and they come back after an hour."""
    async with open_keyed(tmp_path, api, api_url, clock, rate_limit__requests_per_hour="2") as house:
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
    tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock
) -> None:
    """Nothing is told of what is left, and the log of requests is written as ever."""
    async with open_keyed(tmp_path, api, api_url, clock, rate_limit__requests_per_hour="0") as house:
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
    tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock
) -> None:
    """Credit that is used up is told in upstream's words, and nothing is sent until it may be back."""
    quota = {"error": {"message": "You exceeded your current quota.", "type": "insufficient_quota", "code": None}}
    api.replies.append(Reply(status=429, body=quota))
    async with open_keyed(tmp_path, api, api_url, clock, rate_limit__requests_per_hour="0") as house:
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


# -------------------------------------------------------------------------------------------------------------- check


async def told(config: Config, clock: ManualClock) -> dict[str, tuple[str, str, str]]:
    """What `check` finds: verdict, text and remedy, by what each is about."""
    findings = await checkup(config, clock)
    return {each.text.partition(":")[0]: (each.verdict, each.text, each.remedy) for each in findings}


async def test_check_names_what_is_missing(tmp_path: Path, api_url: str, clock: ManualClock) -> None:
    """The key to ask with, and the first local key."""
    findings = await checkup(make_config(tmp_path, api_url, **OPENAI), clock)
    missing = [(each.verdict, each.remedy) for each in findings if each.remedy]
    assert missing == [
        ("soon", "server.py key create NAME"),
        ("wrong", "give one as CHATGPT_REST_UPSTREAM__API_KEY, or as the file api_key in $CREDENTIALS_DIRECTORY"),
    ]


async def test_check_finds_nothing_to_do_where_all_is_well(house: House, clock: ManualClock) -> None:
    """Neither a token nor sync is missed."""
    async with serve_control(house.control, house.config.control_socket):
        findings = await checkup(house.config, clock)
    assert {each.verdict for each in findings} == {"right"}
    assert any("account me: 0 conversations, 50 of 50 requests left" in each.text for each in findings)
    assert not any("sync of" in each.text for each in findings)


async def test_check_asks_the_running_server_for_its_key(house: House, clock: ManualClock) -> None:
    """A service is given it where no other process can see it."""
    config = replace(house.config, api_key=None)
    async with serve_control(house.control, config.control_socket):
        findings = await checkup(config, clock)
    assert [each.verdict for each in findings if "API key" in each.text] == ["right"]


async def test_check_minds_a_running_server_without_a_key(
    tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock
) -> None:
    """Whatever key the command itself was given."""
    async with open_keyed(tmp_path, api, api_url, clock, upstream__api_key="") as house:
        config = replace(house.config, api_key=Secret(api.key))
        async with serve_control(house.control, config.control_socket):
            findings = await checkup(config, clock)
    assert [each.verdict for each in findings if "API key" in each.text] == ["wrong"]


async def test_check_tells_of_a_refused_key(
    tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock
) -> None:
    """With the time, and what to do."""
    unlimited = {"rate_limit__requests_per_hour": "0", "upstream__api_key": "sk-wrong"}
    async with open_keyed(tmp_path, api, api_url, clock, **unlimited) as house:
        await house.client.post("/conversations/new", json={"prompt": "Hello?"})
    findings = await told(house.config, clock)
    assert findings["account me"][1] == "account me: 0 conversations, no limit of requests"
    verdict, text, remedy = findings["asks of me"]
    assert verdict == "wrong"
    assert "upstream refused the configured API key, last at 20" in text
    assert "api_key" in remedy


async def test_check_minds_a_server_in_ones_own_network_less(tmp_path: Path, clock: ManualClock) -> None:
    """Model servers are often reached without TLS there."""
    config = make_config(tmp_path, "http://model.example/v1/", **OPENAI, upstream__api_key="any")
    verdicts = {each.verdict for each in await checkup(config, clock) if "in clear" in each.text}
    assert verdicts == {"soon"}


# ------------------------------------------------------------------------------------------------------ as a process


async def test_a_kill_in_mid_answer_keeps_what_came_and_asks_nothing_again(
    tmp_path: Path, api: SimulatedOpenAI, api_url: str
) -> None:
    """The prompt and the words so far are there for the next process; the key is in no output and no file."""
    environ = environment(
        tmp_path,
        api_url,
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
            while not rows(database, "select 1 from node where completeness = 1"):  # noqa: ASYNC110 - another process
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
    tmp_path: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock
) -> None:
    """Where no server runs, too."""
    environ = environment(
        tmp_path,
        api_url,
        {"CHATGPT_REST_UPSTREAM__KIND": "openai", "CHATGPT_REST_UPSTREAM__API_KEY": api.key},
    )
    done = await command("sync", environ=environ)
    assert done.status == 1
    assert "keeps no conversations" in done.out + done.err
    assert api.received == []


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_server_that_would_ask_itself_does_not_start(tmp_path: Path, clock: ManualClock, host: str) -> None:
    """A `base_url` that is the server's own address would turn one ask into as many as there are connections."""
    itself = "http://localhost:9205/v1/"
    config = make_config(tmp_path, itself, **OPENAI, upstream__api_key="key", server__host=host, server__port="9205")
    with pytest.raises(StartError, match="is the address of this server itself"):
        async with running(config, clock=clock):
            pass
