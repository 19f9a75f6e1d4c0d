# SPDX-License-Identifier: GPL-2.0-or-later
"""The ledger: whatever was read stands under exactly one outcome, and a ledger travels as JSON."""

from __future__ import annotations

import json
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.archive.ledger import MOST_NAMED, Fault, Ledger, Tally
from chatgpt_rest.archive.wire import SetAside
from chatgpt_rest.errors import StorageFailed
from chatgpt_rest.incoming import Incoming
from chatgpt_rest.mirror import Taken
from chatgpt_rest.mirror.imports import Outcome

OUTCOMES: Final = ("imported", "enriched", "unchanged", "left_deleted", "set_aside")
KINDS: Final = ("conversation", "asset", "file")


def came(messages: int, hidden: int = 0) -> Incoming:
    """A conversation of so many messages."""
    return Incoming(
        id="c",
        title=None,
        create_time=None,
        update_time=None,
        current_node=None,
        envelope=b"{}",
        is_archived=False,
        is_starred=False,
        project=None,
        model=None,
        is_slim=False,
        digest=b"",
        messages=messages,
        hidden=hidden,
        nodes=[],
        pointers=[],
    )


def closed(tally: Tally, fault: Fault | None = None) -> Ledger:
    """The ledger of an import that ends now."""
    return tally.ledger("alice", dry_run=False, fault=fault, seconds=1.5, done_bytes=7)


@st.composite
def takings(draw: st.DrawFn) -> tuple[Incoming, Taken]:
    """A conversation, and what the mirror made of it."""
    new, fuller, same, deleted = (draw(st.integers(0, 50)) for _ in range(4))
    hidden = draw(st.integers(0, new + fuller + same + deleted))
    outcome: Outcome = draw(st.sampled_from(["imported", "enriched", "unchanged", "left_deleted"]))
    taken = Taken(outcome, imported=new, enriched=fuller, unchanged=same, left_deleted=deleted, hidden=hidden)
    return came(new + fuller + same + deleted, hidden), taken


@given(
    st.lists(takings()),
    st.lists(st.sampled_from(["stored", "unchanged", "left_deleted"])),
    st.lists(st.builds(SetAside, st.sampled_from(KINDS), st.just("here"), st.just("why"), messages=st.integers(0, 9))),
)
def test_it_always_adds_up(taken: list[tuple[Incoming, Taken]], assets: list[str], aside: list[SetAside]) -> None:
    """What was read is the sum of its outcomes: of conversations, of messages and of assets."""
    tally = Tally()
    for incoming, what in taken:
        tally.took(incoming, what)
    for outcome in assets:
        tally.took_asset(outcome)
    for each in aside:
        tally.put_aside(each)
    ledger = closed(tally)
    for counts in (ledger.conversations, ledger.messages):
        assert counts.read == sum(getattr(counts, name) for name in OUTCOMES)
    came_in = ledger.assets.stored + ledger.assets.unchanged + ledger.assets.left_deleted
    assert ledger.assets.read == came_in + ledger.assets.set_aside
    assert ledger.messages.hidden <= ledger.messages.read
    assert ledger.set_aside_total == len(aside)


def test_it_travels_as_json() -> None:
    """What `as_json` gives is plain JSON, and `from_json` makes the same ledger of it."""
    tally = Tally()
    tally.took(came(2, 1), Taken("imported", imported=2, hidden=1))
    tally.put_aside(SetAside("conversation", "here #3", "no id", title="Untold", messages=4))
    tally.missing_files = ["conversations-001.json"]
    ledger = closed(tally, Fault.of(StorageFailed("the disk is full", code="storage_full")))
    values = json.loads(json.dumps(ledger.as_json()))
    assert Ledger.from_json(values) == ledger
    assert values["is_complete"] is False
    assert values["error"] == {"error": "the disk is full", "code": "storage_full"}


def test_an_import_without_a_fault_is_complete() -> None:
    """Things set aside do not make it less: they are named, and everything else is in."""
    tally = Tally()
    tally.put_aside(SetAside("conversation", "here #3", "no id"))
    assert closed(tally).is_complete


def test_it_names_no_more_than_a_person_reads() -> None:
    """The rest of what was set aside is counted."""
    tally = Tally()
    for number in range(MOST_NAMED + 5):
        tally.put_aside(SetAside("conversation", f"here #{number}", "no id"))
    ledger = closed(tally)
    assert (len(ledger.set_aside), ledger.set_aside_total) == (MOST_NAMED, MOST_NAMED + 5)
