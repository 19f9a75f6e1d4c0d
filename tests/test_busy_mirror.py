# SPDX-License-Identifier: GPL-2.0-or-later
"""A mirror that cannot be written for a moment, or refuses a row: who asked is told, and every ask has its end."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from chatgpt_rest.context import ASKING
from chatgpt_rest.upstream.simulated import SimulatedChatGPT, answer_to
from tests.house import House
from tests.rows import rows


@contextmanager
def held_by_another_program(house: House) -> Iterator[None]:
    """Somebody's database browser is in the middle of a transaction."""
    with closing(sqlite3.connect(house.mirror.path, isolation_level=None)) as connection:
        connection.execute("begin immediate")
        yield
        connection.execute("rollback")


def refuse(house: House, *, event: str, when: str) -> None:
    """Have SQLite refuse these rows, as it would where the program breaks a rule of its own schema."""
    with closing(sqlite3.connect(house.mirror.path)) as connection:
        connection.execute(f"create trigger refuse before {event} when {when} begin select raise(abort, 'no'); end")
        connection.commit()


async def impatient(house: House) -> None:
    """Wait for others as long as ever, only in less time."""
    await house.mirror._database._writer.execute("pragma busy_timeout = 20")


async def test_a_mirror_that_another_program_holds_is_no_fault_of_ours(house: House, chatgpt: SimulatedChatGPT) -> None:
    """A writer waits, and then says 503; nothing was asked, and once the other is done all goes on."""
    await house.client.get("/conversations")
    await impatient(house)
    seen = chatgpt.received()
    with held_by_another_program(house):
        refused = await house.client.post("/conversations/new", json={"prompt": "Hello?"})
    assert (refused.status, refused.json["code"], chatgpt.received()) == (503, "storage_failed", seen)
    assert (await house.client.post("/conversations/new", json={"prompt": "Hello?"})).status == 201


async def test_reading_does_not_wait_for_another_program(house: House, chatgpt: SimulatedChatGPT) -> None:
    """What is here is read while somebody else writes."""
    (conversation,) = chatgpt.alice.many(1)
    await house.client.get(f"/conversations/{conversation.id}/messages")
    await impatient(house)
    with held_by_another_program(house):
        assert (await house.client.get("/conversations")).status == 200
        assert (await house.client.get(f"/conversations/{conversation.id}/messages")).status == 200


@pytest.mark.parametrize(
    ("event", "when"),
    [
        ("insert on upstream_request", "new.path = 'conversation'"),
        ("insert on node", "new.completeness = 1"),
        ("update of current_node on conversation", "old.is_local = 1"),
    ],
    ids=["before it leaves", "in the middle", "at its first sign"],
)
async def test_a_fault_of_ours_ends_the_ask_all_the_same(
    house: House, chatgpt: SimulatedChatGPT, event: str, when: str
) -> None:
    """Whatever breaks inside an ask: no row stays open, and its key says that nobody knows, instead of asking again."""
    await house.client.get("/conversations")
    chatgpt.fault("conversation", stream="error_event")
    refuse(house, event=event, when=when)
    key = {"Idempotency-Key": "k1"}
    await house.client.post("/conversations/new", json={"prompt": "Hello?"}, headers=key)
    ((state,),) = rows(house, "select state from ask")
    assert state in {"incomplete", "uncertain"}
    again = await house.client.post("/conversations/new", json={"prompt": "Hello?"}, headers=key)
    assert (again.status, again.json["code"]) == (502, f"a{'sk' if state == 'uncertain' else 'nswer'}_{state}")
    assert chatgpt.received("POST") <= 1


async def test_an_answer_that_the_mirror_refuses_is_still_told(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Where a fault of ours keeps a paid answer from being written down, who asked gets it, and the ask has an end."""
    await house.client.get("/conversations")
    refuse(house, event="update of state on ask", when="new.state = 'answered'")
    asked = await house.client.post("/conversations/new", json={"prompt": "Hello?"})
    assert (asked.status, asked.json["response"]["message"]) == (201, answer_to("Hello?"))
    await house.app[ASKING].drain(5)
    assert rows(house, "select state from ask") == [("incomplete",)]
