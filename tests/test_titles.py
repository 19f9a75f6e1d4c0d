# SPDX-License-Identifier: GPL-2.0-or-later
"""The title of a new conversation: set upstream and here, and kept until upstream has it."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatgpt_rest import app
from chatgpt_rest.app import push_titles
from chatgpt_rest.context import ASKING
from chatgpt_rest.upstream.simulated import ReceivedRequest, SimConversation, SimulatedChatGPT, answer_to
from tests.house import Answered, Client, House, ManualClock, open_house
from tests.rows import rows


async def ask(client: Client, prompt: str, **fields: Any) -> Answered:
    """Ask in a new conversation."""
    return await client.post("/conversations/new", json={"prompt": prompt, **fields})


def sent(request: ReceivedRequest) -> Any:
    """The JSON that a request carried."""
    return json.loads(request.body)


async def test_a_title_is_set_upstream_and_here(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """`title` costs one more request, whose body holds nothing else."""
    await ask(client, "Hello?", title='"Quoted", "is_visible": false')
    (there,) = chatgpt.alice.conversations
    patches = [request for request in chatgpt.requests if request.method == "PATCH"]
    assert [sent(request) for request in patches] == [{"title": '"Quoted", "is_visible": false'}]
    assert (there.title, there.is_visible) == ('"Quoted", "is_visible": false', True)
    assert [entry["title"] for entry in (await client.get("/conversations")).json] == [there.title]


async def test_a_title_that_could_not_be_set_is_pushed_later(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Where the budget was spent on the answer, the title shows here and reaches upstream when a token is back."""
    spent = {"rate_limit__requests_per_hour": "2"}
    async with open_house(tmp_path, chatgpt, base_url, clock, **spent) as house:
        assert (await ask(house.client, "Hello?", title="Mine")).status == 201
        token = house.client.authorization
    (there,) = chatgpt.alice.conversations
    assert there.title != "Mine"
    async with open_house(tmp_path, chatgpt, base_url, clock, **spent) as house:
        listed = await house.client.as_(token).get("/conversations")
        assert [entry["title"] for entry in listed.json] == ["Mine"]
        await push_titles(house.app, leave=0)
        assert chatgpt.received("PATCH") == 0
        clock.move(seconds=3601)
        await push_titles(house.app, leave=0)
        await push_titles(house.app, leave=0)
    assert (there.title, chatgpt.received("PATCH")) == ("Mine", 1)


async def test_titles_leave_a_reserve_to_people(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """A title waits while pushing it would take one of the tokens that are people's."""
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="12") as house:
        chatgpt.fault("conversation/*", method="PATCH", times=1, error="server_error")
        await ask(house.client, "Hello?", title="Mine")
        await push_titles(house.app, leave=10)
        assert chatgpt.received("PATCH") == 1
        clock.move(seconds=61)  # what did not get through rests for a minute
        await push_titles(house.app, leave=8)
    assert (chatgpt.alice.conversations[0].title, chatgpt.received("PATCH")) == ("Mine", 2)


async def test_a_title_that_upstream_never_takes_is_not_pushed_for_ever(
    house: House, chatgpt: SimulatedChatGPT
) -> None:
    """A title that upstream finds wrong costs one request, not one a minute."""
    chatgpt.fault("conversation/*", method="PATCH", error="invalid")
    assert (await ask(house.client, "Hello?", title="Wrong")).status == 201
    await push_titles(house.app, leave=0)
    assert chatgpt.received("PATCH") == 1


async def test_upstream_s_own_title_shows_where_none_was_wished(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A title that comes in mid-stream is the conversation's."""
    chatgpt.fault("conversation", stream="title_event")
    await ask(client, "Hello?")
    (there,) = chatgpt.alice.conversations
    assert [entry["title"] for entry in (await client.get("/conversations")).json] == [there.title]


# ------------------------------------------------------------------------------------------------- kept, and pushed


async def keep(house: House, chatgpt: SimulatedChatGPT, *titles: str) -> list[SimConversation]:
    """New conversations whose titles upstream did not take yet, oldest first."""
    for title in titles:
        fault = chatgpt.fault("conversation/*", method="PATCH", error="server_error")
        assert (await ask(house.client, f"{title}?", title=title)).status == 201
        chatgpt.faults.remove(fault.id)
        house.clock.move(seconds=1)
    return list(reversed(chatgpt.alice.conversations))


async def pushed(house: House, chatgpt: SimulatedChatGPT) -> int:
    """How many titles a round brings to upstream's door."""
    before = chatgpt.received("PATCH")
    await push_titles(house.app, leave=0)
    return chatgpt.received("PATCH") - before


async def test_a_shutdown_in_the_middle_of_a_push_delays_the_title_and_costs_no_answer(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """The client gets its 201 though the time for draining is over; the title waits for the next process."""
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        fault = chatgpt.fault("conversation/*", method="PATCH", hold=True, error="server_error")
        asking = asyncio.create_task(ask(house.client, "Hello?", title="Mine"))
        await fault.until_held()
        async with asyncio.timeout(2):
            await house.app[ASKING].drain(0)
            asked = await asking
        assert (asked.status, asked.json["response"]["message"]) == (201, answer_to("Hello?"))
        assert rows(house, "select state from ask") == [("answered",)]
        assert rows(house, "select title, is_title_pending from conversation") == [("Mine", 1)]
        token = house.client.authorization
        chatgpt.clear_faults()
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await house.client.as_(token).get("/conversations")
        await push_titles(house.app, leave=0)
    assert chatgpt.alice.conversations[0].title == "Mine"


async def test_a_push_does_not_begin_once_the_server_is_ending(house: House, chatgpt: SimulatedChatGPT) -> None:
    """An answer that becomes whole while the server drains is told at once, and upstream is not asked for its title."""
    fault = chatgpt.fault("conversation", hold_after_events=1)
    chatgpt.fault("conversation/*", method="PATCH", hold=True)
    asking = asyncio.create_task(ask(house.client, "Hello?", title="Mine"))
    await fault.until_held()
    draining = asyncio.create_task(house.app[ASKING].drain(10))
    await asyncio.wait((draining,), timeout=0)
    fault.release()
    async with asyncio.timeout(5):
        await draining
        assert (await asking).status == 201
    assert chatgpt.received("PATCH") == 0
    assert rows(house, "select title, is_title_pending from conversation") == [("Mine", 1)]


async def test_a_fault_of_ours_at_the_title_does_not_cost_the_answer(
    house: House, chatgpt: SimulatedChatGPT, caplog: pytest.LogCaptureFixture
) -> None:
    """What breaks while the title is pushed is logged, and the client has its answer."""
    with closing(sqlite3.connect(house.mirror.path)) as connection:
        connection.execute(
            """
            create trigger refuse before update of is_title_pending on conversation
            when old.is_title_pending = 1 and new.is_title_pending = 0 begin select raise(abort, 'no'); end
            """
        )
        connection.commit()
    assert (await ask(house.client, "Hello?", title="Mine")).status == 201
    assert "a title could not be pushed" in caplog.text
    assert rows(house, "select state from ask") == [("answered",)]


async def test_a_title_that_does_not_get_through_rests_longer_each_time(
    house: House, chatgpt: SimulatedChatGPT
) -> None:
    """One minute after the first failure, then two, four … and never more than an hour."""
    await keep(house, chatgpt, "Mine")
    chatgpt.fault("conversation/*", method="PATCH", error="server_error")
    assert await pushed(house, chatgpt) == 1
    for minutes in (1, 2, 4, 8, 16, 32, 60, 60):
        house.clock.move(seconds=60 * minutes - 1)
        assert await pushed(house, chatgpt) == 0
        house.clock.move(seconds=1)
        assert await pushed(house, chatgpt) == 1


async def test_a_title_that_got_through_ends_the_rest(house: House, chatgpt: SimulatedChatGPT) -> None:
    """After a success a failure is a first one again."""
    await keep(house, chatgpt, "First")
    fault = chatgpt.fault("conversation/*", method="PATCH", error="server_error")
    for minutes in (1, 2):
        assert await pushed(house, chatgpt) == 1
        house.clock.move(seconds=60 * minutes)
    chatgpt.faults.remove(fault.id)
    assert await pushed(house, chatgpt) == 1
    await keep(house, chatgpt, "Second")
    chatgpt.fault("conversation/*", method="PATCH", error="server_error")
    assert await pushed(house, chatgpt) == 1
    house.clock.move(seconds=60)
    assert await pushed(house, chatgpt) == 1


async def test_one_title_that_upstream_chokes_on_does_not_hold_up_the_others(
    house: House, chatgpt: SimulatedChatGPT
) -> None:
    """The titles behind it are pushed in the same round."""
    first, *others = await keep(house, chatgpt, "One", "Two", "Three", "Four", "Five")
    chatgpt.fault(f"conversation/{first.id}", method="PATCH", error="server_error")
    assert await pushed(house, chatgpt) == 5
    assert [there.title for there in others] == ["Two", "Three", "Four", "Five"]
    assert rows(house, "select title from conversation where is_title_pending") == [("One",)]


async def test_an_upstream_that_takes_no_titles_is_not_asked_for_each(house: House, chatgpt: SimulatedChatGPT) -> None:
    """A round ends with its third failure: the rest of the budget is for people."""
    await keep(house, chatgpt, "One", "Two", "Three", "Four", "Five")
    chatgpt.fault("conversation/*", method="PATCH", error="server_error")
    assert await pushed(house, chatgpt) == 3


async def test_titles_that_never_get_through_do_not_hold_up_newer_ones_for_ever(
    house: House, chatgpt: SimulatedChatGPT
) -> None:
    """Three that upstream always chokes on end one round; in the next, those go first that have failed least."""
    bad = await keep(house, chatgpt, "One", "Two", "Three")
    for there in bad:
        chatgpt.fault(f"conversation/{there.id}", method="PATCH", error="server_error")
    *_, newer = await keep(house, chatgpt, "Four")
    assert await pushed(house, chatgpt) == 3
    house.clock.move(seconds=60)
    assert await pushed(house, chatgpt) == 4
    assert newer.title == "Four"
    assert rows(house, "select count(*) from conversation where is_title_pending") == [(3,)]


class Heard(logging.Handler):
    """Tells when something was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.event = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.event.set()


async def test_a_fault_in_the_background_ends_one_round_and_no_more(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody foresaw is logged with its traceback, and the process goes on going upstream."""
    heard = Heard()
    async with open_house(tmp_path, chatgpt, base_url, clock, sync__enabled="true") as house:
        await keep(house, chatgpt, "Mine")
        with closing(sqlite3.connect(house.mirror.path)) as connection:
            connection.execute("alter table conversation rename to mislaid")
            connection.commit()
        app.log.addHandler(heard)
        rounds = asyncio.create_task(app._go_upstream(house.config, house.app))
        told = asyncio.create_task(heard.event.wait())
        try:
            await asyncio.wait((rounds, told), return_when=asyncio.FIRST_COMPLETED, timeout=10)
            assert (told.done(), rounds.done()) == (True, False)
        finally:
            app.log.removeHandler(heard)
            for task in (rounds, told):
                task.cancel()
            await asyncio.gather(rounds, told, return_exceptions=True)
    assert "a round in the background failed" in caplog.text
    assert "no such table" in caplog.text
