# SPDX-License-Identifier: GPL-2.0-or-later
"""`GET /conversations`: the first page, paging, filters, validators."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from chatgpt_rest.clock import iso
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Answered, Client, House, ManualClock, open_house


async def key_client(house: House) -> Client:
    """A client with an API key of Alice's account, whose list was never read."""
    account, (key, digest) = house.chatgpt.alice.user_id, house.auth.create_key()
    await house.mirror.accounts.accept(account, b"of some earlier token", email=None, expires_at=2**62)
    await house.mirror.accounts.create_key(account, digest, name="test")
    return house.client.as_(key.reveal())


def titles(answer: Answered) -> list[str]:
    """The titles of a list, in its order."""
    return [entry["title"] for entry in answer.json]


async def test_the_first_list_costs_one_page(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """An account's first list fetches one page of 100, in the same request that checks the token, and says it is not
    whole.
    """
    chatgpt.alice.many(130)
    listed = await client.get("/conversations")
    assert (len(listed.json), listed.headers["X-Mirror-Complete"]) == (100, "false")
    assert [request.path for request in chatgpt.requests] == [
        "/backend-api/conversations?offset=0&limit=100&order=updated"
    ]


async def test_a_whole_list_does_not_say_that_it_is_not(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A list that ended within its first page is whole."""
    chatgpt.alice.many(99)
    listed = await client.get("/conversations")
    assert len(listed.json) == 99
    assert "X-Mirror-Complete" not in listed.headers


async def test_a_key_s_first_list_costs_one_page_too(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """With an API key the first list goes with the configured token, whose check brings the page."""
    chatgpt.alice.many(3)
    async with open_house(tmp_path, chatgpt, base_url, clock, upstream__access_token=chatgpt.alice.token()) as house:
        listed = await (await key_client(house)).get("/conversations")
    assert len(listed.json) == 3
    assert chatgpt.received() == 1


async def test_a_key_reads_what_is_here(house: House) -> None:
    """With an API key and no token to ask with, the list is what the mirror holds, and says that it is not whole."""
    listed = await (await key_client(house)).get("/conversations")
    assert (listed.status, listed.json, listed.headers["X-Mirror-Complete"]) == (200, [], "false")
    assert house.chatgpt.received() == 0


async def test_a_first_list_that_cannot_be_read_is_no_empty_list(house: House, chatgpt: SimulatedChatGPT) -> None:
    """With an access token, where the first page does not come, the client hears why."""
    await house.client.get("/conversations")
    with closing(sqlite3.connect(house.mirror.path)) as connection:  # as after a crash between token and page
        connection.execute("update account set listed_at = null")
        connection.commit()
    await house.mirror.of(chatgpt.alice.user_id).deletions.bury("c0ffee")  # and so nothing rendered is believed
    chatgpt.fault("conversations", error="server_error")
    refused = await house.client.get("/conversations")
    assert (refused.status, refused.json["code"]) == (502, "upstream_broken")


async def test_no_parameter_lists_all_newest_first(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Without parameters the list is all there is, newest update first, and counts nothing."""
    chatgpt.alice.many(12)
    listed = await client.get("/conversations")
    assert titles(listed) == [f"Note {number}" for number in range(12, 0, -1)]
    assert "X-Total-Count" not in listed.headers
    assert "Link" not in listed.headers


@pytest.mark.parametrize(
    ("query", "numbers", "link"),
    [
        ("limit=2", [5, 4], '</conversations?limit=2&offset=2>; rel="next"'),
        (
            "limit=2&offset=1",
            [4, 3],
            '</conversations?limit=2&offset=3>; rel="next", </conversations?limit=2&offset=0>; rel="prev"',
        ),
        ("limit=2&offset=4", [1], '</conversations?limit=2&offset=2>; rel="prev"'),
        ("offset=4", [1], '</conversations?limit=5&offset=0>; rel="prev"'),
        ("limit=5", [5, 4, 3, 2, 1], None),
        ("limit=10000", [5, 4, 3, 2, 1], None),
        ("limit=2&offset=99", [], '</conversations?limit=2&offset=97>; rel="prev"'),
        ("offset=2147483648", [], '</conversations?limit=5&offset=2147483643>; rel="prev"'),
    ],
)
async def test_pages(
    client: Client, chatgpt: SimulatedChatGPT, query: str, numbers: list[int], link: str | None
) -> None:
    """`limit` and `offset` cut a page, with the total and links to its neighbours."""
    chatgpt.alice.many(5)
    listed = await client.get(f"/conversations?{query}")
    assert titles(listed) == [f"Note {number}" for number in numbers]
    assert (listed.headers["X-Total-Count"], listed.headers.get("Link")) == ("5", link)


async def test_links_keep_the_filters(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A neighbouring page is of the same list, and no unknown parameter is repeated."""
    chatgpt.alice.many(3)
    listed = await client.get("/conversations?limit=1&order=created&archived=all&deleted=none&evil=%3E%22%0d%0aX:y")
    assert listed.headers["Link"] == (
        '</conversations?order=created&archived=all&deleted=none&limit=1&offset=1>; rel="next"'
    )


async def test_following_next_sees_everything_once(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Walking the `next` links meets each conversation exactly once."""
    chatgpt.alice.many(7)
    path, seen = "/conversations?limit=3", []
    while path:
        listed = await client.get(path)
        seen += titles(listed)
        link = listed.headers.get("Link", "")
        path = link[1 : link.index(">")] if 'rel="next"' in link else ""
    assert seen == [f"Note {number}" for number in range(7, 0, -1)]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=10001",
        "limit=1e3",
        "limit=",
        "limit=%D9%A3",
        "limit=99999999999999999999",
        "offset=-1",
        "offset=2147483649",
        "offset=x",
        "order=title",
        "archived=maybe",
        "deleted=true",
        "project=..%2Fall",
        "project=",
    ],
)
async def test_a_parameter_out_of_bounds(client: Client, query: str) -> None:
    """A wrong parameter is a 400 that names it and does not repeat its value."""
    name, _, value = query.partition("=")
    refused = await client.get(f"/conversations?{query}")
    assert (refused.status, refused.json["code"]) == (400, "bad_request")
    assert refused.json["error"].startswith(f"{name} must be ")
    assert len(value) < 5 or value not in refused.json["error"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [("", ["Open"]), ("?archived=only", ["Kept"]), ("?archived=all", ["Kept", "Open"]), ("?archived=none", ["Open"])],
)
async def test_archived_ones_are_left_out_unless_asked_for(
    client: Client, chatgpt: SimulatedChatGPT, query: str, expected: list[str]
) -> None:
    """The list leaves the archive out, shows it too, or shows it alone."""
    chatgpt.alice.add_conversation("Open", at=1_700_000_000)
    kept = chatgpt.alice.add_conversation("Kept", at=1_700_000_100)
    await client.patch(f"/conversations/{kept.id}", json={"is_archived": True})
    assert titles(await client.get(f"/conversations{query}")) == expected


@pytest.mark.parametrize(
    ("query", "expected"), [("", ["Here"]), ("?deleted=only", ["Gone"]), ("?deleted=all", ["Gone", "Here"])]
)
async def test_deleted_ones_are_left_out_unless_asked_for(
    client: Client, chatgpt: SimulatedChatGPT, query: str, expected: list[str]
) -> None:
    """The list leaves out what was deleted, shows it too, or shows it alone."""
    chatgpt.alice.add_conversation("Here", at=1_700_000_000)
    gone = chatgpt.alice.add_conversation("Gone", at=1_700_000_100)
    await client.delete(f"/conversations/{gone.id}")
    assert titles(await client.get(f"/conversations{query}")) == expected


async def test_a_list_of_deleted_ones_says_what_became_of_them(
    client: Client, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """Asked for with `deleted`, each entry also says when it was deleted here and whether upstream has it no more; in
    any other list it has the seed's six members, as ever.
    """
    chatgpt.alice.add_conversation("Here", at=1_700_000_000)
    gone = chatgpt.alice.add_conversation("Gone", at=1_700_000_100)
    await client.delete(f"/conversations/{gone.id}")
    deleted, here = (await client.get("/conversations?deleted=all")).json
    assert (deleted["deleted_at"], deleted["deleted_upstream"]) == (iso(clock.now()), False)
    assert (here["deleted_at"], here["deleted_upstream"]) == (None, False)
    for query in ("", "?deleted=none", "?archived=all"):
        for entry in (await client.get(f"/conversations{query}")).json:
            assert list(entry) == ["id", "title", "create_time", "update_time", "mapping", "current_node"]


async def test_archived_ones_that_are_deleted_are_found(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """With `archived=all` beside `deleted`, or `only`; a deleted one is not in the archive unless asked for."""
    kept = chatgpt.alice.add_conversation("Kept")
    await client.patch(f"/conversations/{kept.id}", json={"is_archived": True})
    await client.delete(f"/conversations/{kept.id}")
    assert titles(await client.get("/conversations?deleted=only")) == []
    assert titles(await client.get("/conversations?archived=all&deleted=only")) == ["Kept"]
    assert titles(await client.get("/conversations?archived=only&deleted=all")) == ["Kept"]
    assert titles(await client.get("/conversations?archived=all")) == []


async def test_a_page_of_deleted_ones_counts_them(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The total and the links are of the list that was asked for."""
    notes = chatgpt.alice.many(5)
    for note in notes[:3]:
        await client.delete(f"/conversations/{note.id}")
    listed = await client.get("/conversations?deleted=only&limit=2")
    assert (len(listed.json), listed.headers["X-Total-Count"]) == (2, "3")
    assert listed.headers["Link"] == '</conversations?deleted=only&limit=2&offset=2>; rel="next"'


async def test_a_project_s_conversations(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """`project` keeps the conversations of one project or GPT."""
    chatgpt.alice.add_conversation("Plain")
    chatgpt.alice.add_conversation("With a GPT", gpt="g-abc123")
    assert titles(await client.get("/conversations?project=g-abc123")) == ["With a GPT"]
    assert titles(await client.get("/conversations?project=g-other")) == []


async def test_order_by_creation(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """`order=created` lists the newest creation first."""
    old = chatgpt.alice.add_conversation("Old", at=1_700_000_000)
    chatgpt.alice.add_conversation("New", at=1_700_000_100)
    old.rename("Old, renamed")
    assert titles(await client.get("/conversations")) == ["Old, renamed", "New"]
    assert titles(await client.get("/conversations?order=created")) == ["New", "Old, renamed"]


async def test_a_title_that_is_missing_is_chatgpt_s_own_word(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A conversation with no title, or an empty one, is called what ChatGPT's list calls it."""
    chatgpt.alice.add_conversation(None)
    chatgpt.alice.add_conversation("")
    assert titles(await client.get("/conversations")) == ["New chat", "New chat"]


@pytest.mark.parametrize("times", ["Z", "+00:00", "naive", "absent"])
async def test_every_form_of_time_upstream_is_one_form_here(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, times: str
) -> None:
    """Whatever form upstream writes times in, ours end in `+00:00`; an update time that is absent is the creation's."""
    chatgpt.alice.add_conversation("Times", [("Hello?", "Hi.")], at=1_700_000_000)
    chatgpt.settings.times = times  # type: ignore[assignment]  # a parameter is a plain string
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        (entry,) = (await house.client.get("/conversations")).json
    updated = "2023-11-14T22:12:58+00:00" if times == "absent" else "2023-11-14T22:13:20+00:00"
    assert (entry["create_time"], entry["update_time"]) == ("2023-11-14T22:12:58+00:00", updated)


async def test_validators(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """An answer carries a weak ETag, and `private, no-cache`, and varies by who asks."""
    chatgpt.alice.many(2)
    listed = await client.get("/conversations")
    assert listed.headers["ETag"].startswith('W/"')
    assert listed.headers["Cache-Control"] == "private, no-cache"
    assert listed.headers["Vary"] == "Authorization, Cookie, Accept-Encoding"


@pytest.mark.parametrize("form", ["{0}", '"other", {0}', "*", "{1}"], ids=["same", "among others", "any", "strong"])
async def test_what_a_client_has_is_not_sent_again(client: Client, chatgpt: SimulatedChatGPT, form: str) -> None:
    """`If-None-Match` with the current ETag is answered 304 with no body and the same validators."""
    chatgpt.alice.many(2)
    etag = (await client.get("/conversations")).headers["ETag"]
    wanted = form.format(etag, etag.removeprefix("W/"))
    same = await client.get("/conversations", headers={"If-None-Match": wanted})
    assert (same.status, same.body, same.headers["ETag"]) == (304, b"", etag)
    assert same.headers["Cache-Control"] == "private, no-cache"
    assert same.headers["Vary"] == "Authorization, Cookie, Accept-Encoding"


async def test_a_change_changes_the_etag(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """After an edit the old ETag no longer matches."""
    (note,) = chatgpt.alice.many(1)
    etag = (await client.get("/conversations")).headers["ETag"]
    await client.patch(f"/conversations/{note.id}", json={"title": "Renamed"})
    listed = await client.get("/conversations", headers={"If-None-Match": etag})
    assert (listed.status, titles(listed)) == (200, ["Renamed"])


async def test_large_answers_are_compressed_for_who_can_read_that(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A long list travels as gzip where the client accepts it, plain where it does not, with one ETag."""
    chatgpt.alice.many(60)
    small = await client.get("/conversations", headers={"Accept-Encoding": "gzip"})
    plain = await client.get("/conversations", headers={"Accept-Encoding": "identity"})
    assert small.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert int(small.headers["Content-Length"]) * 3 < int(plain.headers["Content-Length"])
    assert (small.json, small.headers["ETag"]) == (plain.json, plain.headers["ETag"])


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip;q=0", None),
        ("gzip; q=0.000, identity", None),
        ("GZIP;Q=0", None),
        ("br, deflate", None),
        ("x-gzip2", None),
        ("", None),
        ("gzip;q=0.001", "gzip"),
        ("br;q=1.0, GZip ; q=0.5", "gzip"),
    ],
)
async def test_who_declines_gzip_gets_none(
    client: Client, chatgpt: SimulatedChatGPT, accepted: str, encoding: str | None
) -> None:
    """A weight of zero declines; any other, however small, accepts."""
    chatgpt.alice.many(60)
    listed = await client.get("/conversations", headers={"Accept-Encoding": accepted})
    assert listed.headers.get("Content-Encoding") == encoding
    assert len(listed.json) > 20


async def test_short_answers_are_not_compressed(client: Client) -> None:
    """What fits into one packet stays as it is."""
    listed = await client.get("/conversations", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in listed.headers


async def test_a_head_is_a_get_without_its_body(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """HEAD answers what GET would, and no body."""
    chatgpt.alice.many(3)
    full = await client.get("/conversations")
    head = await client.request("HEAD", "/conversations")
    assert (head.status, head.body) == (200, b"")
    assert (head.headers["ETag"], head.headers["Content-Length"]) == (full.headers["ETag"], str(len(full.body)))


async def test_lists_of_two_accounts_are_apart(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Nobody sees another account's conversations, cached answers included."""
    chatgpt.alice.add_conversation("Alice's")
    chatgpt.bob.add_conversation("Bob's")
    bob = house.client_of(chatgpt.bob)
    for _ in range(2):
        assert titles(await house.client.get("/conversations")) == ["Alice's"]
        assert titles(await bob.get("/conversations")) == ["Bob's"]


async def test_odd_titles_survive(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Quotes, newlines, NUL, emoji and half a character in a title come through as JSON."""
    odd = 'a "quote"\n\x00\u2028 🧾 \ud800'
    chatgpt.alice.add_conversation(odd)
    listed = await client.get("/conversations")
    assert titles(listed) == [odd.replace("\ud800", "\ufffd")]
    assert json.loads(listed.body) == listed.json
