# SPDX-License-Identifier: GPL-2.0-or-later
"""One conversation over HTTP as a file for a person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT
from tests.belongings import PNG, add_asset
from tests.house import Client, House, ManualClock, open_house

FORMS: Final = {
    "markdown": ("text/markdown; charset=utf-8", ".md"),
    "html": ("text/html; charset=utf-8", ".html"),
    "json": ("application/json", ".json"),
}


@pytest.fixture
def groceries(chatgpt: SimulatedChatGPT) -> SimConversation:
    """A conversation that ChatGPT has and the mirror has not."""
    return chatgpt.alice.add_conversation("Groceries", [("What do I need?", "Milk.")], at=1_714_557_600)


def place(conversation: SimConversation, form: str | None = None) -> str:
    """Where its file is."""
    return f"/conversations/{conversation.id}/export" + ("" if form is None else f"?format={form}")


async def add_picture(house: House, client: Client, conversation: SimConversation) -> None:
    """Read the conversation in, and place a picture in it."""
    assert (await client.get(place(conversation))).status == 200
    account = house.chatgpt.alice.user_id
    await add_asset(house.mirror, "file-a", PNG, conversation_id=conversation.id, name="cat.png", account=account)


@pytest.mark.parametrize("form", FORMS)
async def test_each_form_comes_as_what_it_is(client: Client, groceries: SimConversation, form: str) -> None:
    """The right type and name, the words of the conversation, and nothing that a browser would run."""
    read = await client.get(place(groceries, form))
    content_type, suffix = FORMS[form]
    name = f"2024-05-01 Groceries ({groceries.id[:8]}){suffix}"
    assert (read.status, read.headers["Content-Type"]) == (200, content_type)
    disposition = f"attachment; filename=\"{name}\"; filename*=UTF-8''{quote(name)}"
    assert read.headers["Content-Disposition"] == disposition
    assert read.headers["X-Content-Type-Options"] == "nosniff"
    assert read.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'; ")
    assert b"What do I need?" in read.body
    assert b"Milk." in read.body


async def test_markdown_is_what_is_meant_by_nothing(client: Client, groceries: SimConversation) -> None:
    """Without a format it is Markdown."""
    assert (await client.get(place(groceries))).body == (await client.get(place(groceries, "markdown"))).body


@pytest.mark.parametrize("form", ["pdf", "chatgpt", "", "Markdown", "markdown%00"])
async def test_an_unknown_form_is_refused(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation, form: str
) -> None:
    """The choices are named, what was sent is not repeated, and nothing is fetched for it."""
    refused = await client.get(place(groceries, form))
    assert (refused.status, refused.json) == (
        400,
        {"error": "format must be markdown, html or json", "code": "bad_request"},
    )
    assert chatgpt.received("GET", "conversation/*") == 0


async def test_a_title_breaks_no_header(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Quotes, line ends and other alphabets become a name for clients old and new."""
    odd = chatgpt.alice.add_conversation('Grüße "an"\r\nX-Evil: \u202e世界\\', [("Hi", "Hi")], at=1_714_557_600)
    read = await client.get(place(odd))
    mark = f"({odd.id[:8]})"
    assert read.headers["Content-Disposition"] == (
        f'attachment; filename="2024-05-01 Gr__e an X-Evil __ {mark}.md"; '
        "filename*=UTF-8''2024-05-01%20Gr%C3%BC%C3%9Fe%20an%20X-Evil%20%E4%B8%96%E7%95%8C%20"
        f"%28{odd.id[:8]}%29.md"
    )
    assert "X-Evil" not in read.headers


async def test_exporting_asks_upstream_once(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """What is not here is fetched on the first export and never again, in whatever form."""
    for form in FORMS:
        assert (await client.get(place(groceries, form))).status == 200
    assert chatgpt.received("GET", "conversation/*") == 1


async def test_what_the_client_has_is_not_sent_again(client: Client, groceries: SimConversation) -> None:
    """The same conversation has the same validator; an edit changes it."""
    first = await client.get(place(groceries))
    assert first.headers["Cache-Control"] == "private, no-cache"
    again = await client.get(place(groceries), headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    await client.patch(f"/conversations/{groceries.id}", json={"title": "Shopping"})
    renamed = await client.get(place(groceries), headers={"If-None-Match": first.headers["ETag"]})
    assert renamed.status == 200
    assert b"# Shopping" in renamed.body


async def test_head_tells_without_sending(client: Client, groceries: SimConversation) -> None:
    """HEAD has the headers of GET and no body."""
    read, head = await client.get(place(groceries)), await client.request("HEAD", place(groceries))
    assert (head.status, head.body) == (200, b"")
    for name in ("ETag", "Content-Type", "Content-Disposition", "Content-Length"):
        assert head.headers[name] == read.headers[name]


async def test_what_is_not_there_is_not_found(client: Client, house: House, groceries: SimConversation) -> None:
    """An unknown id, another account's conversation, one that was deleted here."""
    await client.get(place(groceries))
    bob = house.client_of(house.chatgpt.bob)
    unknown = await client.get("/conversations/00000000-0000-4000-8000-000000000000/export")
    other = await bob.get(place(groceries))
    await client.delete(f"/conversations/{groceries.id}")
    deleted = await client.get(place(groceries))
    assert {each.status for each in (unknown, other, deleted)} == {404}
    assert {each.json["code"] for each in (unknown, other, deleted)} == {"not_found"}


async def test_without_a_credential_nothing_is_exported(client: Client, groceries: SimConversation) -> None:
    """Somebody with no Authorization gets 401."""
    await client.get(place(groceries))
    assert (await client.as_(None).get(place(groceries))).status == 401


async def test_assets_are_linked_where_they_are_served(
    house: House, client: Client, groceries: SimConversation
) -> None:
    """Markdown and JSON link an asset's own address; a page holds it itself."""
    await add_picture(house, client, groceries)
    assert b"![cat.png](/assets/file-a)" in (await client.get(place(groceries))).body
    tree = json.loads((await client.get(place(groceries, "json"))).body)
    assert [each["file"] for message in tree["messages"] for each in message["assets"]] == ["/assets/file-a"]
    assert b"data:image/png;base64," in (await client.get(place(groceries, "html"))).body
    assert (await client.get("/assets/file-a")).body == PNG


async def test_a_page_holds_as_much_as_a_server_can_give(
    house: House, client: Client, groceries: SimConversation
) -> None:
    """Pictures up to 16 MiB are in it, and what goes beyond is linked."""
    await add_picture(house, client, groceries)
    account = house.chatgpt.alice.user_id
    for name in ("file-b", "file-c"):
        content = PNG + name.encode() + bytes(9 * 1024 * 1024)
        await add_asset(house.mirror, name, content, conversation_id=groceries.id, account=account)
    page = (await client.get(place(groceries, "html"))).body
    assert page.count(b"data:image/png;base64,") == 2
    assert page.count(b'<a href="/assets/file-') == 1
    assert len(page) < 16 * 1024 * 1024 * 4 // 3


async def test_behind_a_proxy_links_are_whole_addresses(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, groceries: SimConversation
) -> None:
    """With a public address the file's links work from wherever it is saved."""
    async with open_house(tmp_path, chatgpt, base_url, clock, server__public_url="https://chats.example.org/") as house:
        await add_picture(house, house.client, groceries)
        read = await house.client.get(place(groceries))
        assert b"](https://chats.example.org/assets/file-a)" in read.body
