# SPDX-License-Identifier: GPL-2.0-or-later
"""The six frozen rows of the contract, as clients written for them send requests and read answers."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from typing import Any, Final

import aiohttp
import pytest

from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT, answer_to
from tests.house import Answered, Client

ENTRY: Final = ["id", "title", "create_time", "update_time", "mapping", "current_node"]
MESSAGE: Final = {
    "author": dict,
    "message": str,
    "conversation_id": str,
    "parent_id": str,
    "model": str,
    "finish_details": str,
    "end_turn": bool,
    "recipient": str,
    "citations": list,
}
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00")


@pytest.fixture
def groceries(chatgpt: SimulatedChatGPT) -> SimConversation:
    """A conversation that ChatGPT has and the mirror has not."""
    return chatgpt.alice.add_conversation("Groceries", [("What do I need?", "Milk.")])


def check_message(message: dict[str, Any]) -> None:
    """The documented fields, in their documented types."""
    assert {name: type(message[name]) for name in MESSAGE} == MESSAGE
    assert set(message["author"]) == {"role", "name", "metadata"}


async def test_a_list_entry_has_the_documented_fields(client: Client, groceries: SimConversation) -> None:
    """Conversations are six fields, times in ISO 8601 with `+00:00`, mapping and current node null."""
    listed = await client.get("/conversations")
    (entry,) = listed.json
    assert (listed.status, list(entry)) == (200, ENTRY)
    assert (entry["id"], entry["title"]) == (groceries.id, "Groceries")
    assert (entry["mapping"], entry["current_node"]) == (None, None)
    assert TIME.fullmatch(entry["create_time"])
    assert TIME.fullmatch(entry["update_time"])


async def test_an_empty_account_lists_nothing(client: Client) -> None:
    """No conversations are an empty array, not an error."""
    listed = await client.get("/conversations")
    assert (listed.status, listed.json) == (200, [])


@pytest.mark.parametrize("form", ["form", "multipart", "json"])
async def test_a_new_conversation(client: Client, chatgpt: SimulatedChatGPT, form: str) -> None:
    """`new` answers 201 with the message, however the fields were sent."""
    fields = {"prompt": "Grüße, 你好?", "title": "Zwei Wörter", "model": "gpt-4o", "autocontinue": "true"}
    answer = await client.post("/conversations/new", **body(form, fields))
    (there,) = chatgpt.alice.conversations
    assert (answer.status, list(answer.json)) == (201, ["response"])
    check_message(answer.json["response"])
    assert answer.json["response"]["message"] == answer_to("Grüße, 你好?")
    assert (answer.json["response"]["conversation_id"], there.title, there.model) == (there.id, "Zwei Wörter", "gpt-4o")


@pytest.mark.parametrize("form", ["form", "multipart", "json"])
async def test_an_ask(client: Client, groceries: SimConversation, form: str) -> None:
    """`ask` answers 201 with the message, whose `parent_id` is what a client goes on from."""
    fields = {"prompt": "And bread?", "parent_id": groceries.current_node, "model": "gpt-4o", "autocontinue": "false"}
    answer = await client.post(f"/conversations/{groceries.id}/ask", **body(form, fields))
    assert (answer.status, list(answer.json)) == (201, ["response"])
    check_message(answer.json["response"])
    assert answer.json["response"]["conversation_id"] == groceries.id
    assert answer.json["response"]["parent_id"] == groceries.current_node


async def test_messages_are_a_flat_list(client: Client, groceries: SimConversation) -> None:
    """`messages` is an array of the same objects, oldest first, without what ChatGPT's page hides."""
    read = await client.get(f"/conversations/{groceries.id}/messages")
    assert read.status == 200
    assert [(message["author"]["role"], message["message"]) for message in read.json] == [
        ("user", "What do I need?"),
        ("assistant", "Milk."),
    ]
    check_message(read.json[-1])


async def test_deleting_one(client: Client, groceries: SimConversation, chatgpt: SimulatedChatGPT) -> None:
    """`DELETE` of a conversation answers 204 with no content, and it is gone upstream."""
    deleted = await client.delete(f"/conversations/{groceries.id}")
    assert (deleted.status, deleted.body) == (204, b"")
    assert chatgpt.alice.conversations == []


async def test_deleting_all(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """`DELETE /conversations/all` answers 204 with no content, and all are gone upstream."""
    chatgpt.alice.many(3)
    deleted = await client.delete("/conversations/all")
    assert (deleted.status, deleted.body) == (204, b"")
    assert chatgpt.alice.conversations == []


@pytest.mark.parametrize("scheme", ["", "Bearer ", "bearer ", "BEARER  "], ids=["bare", "Bearer", "bearer", "BEARER"])
async def test_the_access_token_may_be_bare_or_a_bearer(client: Client, chatgpt: SimulatedChatGPT, scheme: str) -> None:
    """`Authorization` is the access token, with `Bearer` before it or without."""
    read = await client.as_(scheme + chatgpt.alice.token()).get("/conversations")
    assert read.status == 200


@pytest.mark.parametrize("authorization", [None, "", "  "], ids=["none", "empty", "blank"])
async def test_no_access_token(client: Client, authorization: str | None) -> None:
    """A request without an access token is answered 401 in the documented words."""
    refused = await client.as_(authorization).get("/conversations")
    assert refused.status == 401
    assert refused.json == {"error": "access_token is required", "code": "access_token_required"}


@pytest.mark.parametrize("path", ["/conversations/new", "/conversations/c0ffee/ask"], ids=["new", "ask"])
@pytest.mark.parametrize(
    "options",
    [{}, {"data": {"prompt": ""}}, {"data": {"title": "x"}}, {"json": {"prompt": None}}, {"json": {}}],
    ids=["no body", "empty", "absent", "null", "empty object"],
)
async def test_no_prompt(client: Client, chatgpt: SimulatedChatGPT, path: str, options: dict[str, Any]) -> None:
    """A missing or empty prompt is answered 400 in the documented words, and nothing is asked."""
    refused = await client.post(path, **options)
    assert (refused.status, refused.json) == (400, {"error": "prompt is required", "code": "bad_request"})
    assert chatgpt.received() == 1  # the check of the token


@pytest.mark.parametrize(
    ("value", "is_continued"),
    [("true", True), ("True", True), ("false", False), (True, True), (False, False), (None, False)],
)
async def test_autocontinue_is_a_boolean_or_its_name(
    client: Client, chatgpt: SimulatedChatGPT, value: object, is_continued: bool
) -> None:
    """`autocontinue` is "true" or "false", in JSON a boolean as well, and false where it is absent."""
    answer = await client.post("/conversations/new", json={"prompt": "[[max_tokens]] Go on", "autocontinue": value})
    assert answer.status == 201
    assert chatgpt.received("POST", "conversation") == 1 + is_continued


async def test_unknown_fields_are_ignored(client: Client) -> None:
    """A field that nobody knows is no error."""
    answer = await client.post("/conversations/new", json={"prompt": "Hello?", "temperature": [1, {"a": None}]})
    assert answer.status == 201


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    "arguments",
    [
        ["-d", "prompt=Hello from curl"],
        ["-F", "prompt=Hello from curl"],
        ["-H", "Content-Type: application/json", "-d", '{"prompt": "Hello from curl"}'],
    ],
    ids=["-d", "-F", "json"],
)
async def test_curl(client: Client, chatgpt: SimulatedChatGPT, arguments: list[str]) -> None:
    """A line with curl asks and is answered."""
    process = await asyncio.create_subprocess_exec(
        "curl",
        "-sS",
        "-w",
        "\n%{http_code}",
        "-H",
        f"Authorization: {client.authorization}",
        *arguments,
        f"{client.address}/conversations/new",
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    answer, _, status = printed.rpartition(b"\n")
    assert (process.returncode, status) == (0, b"201")
    assert json.loads(answer)["response"]["message"] == answer_to("Hello from curl")


def body(form: str, fields: dict[str, str]) -> dict[str, Any]:
    """The fields as `form`, as an option of the client."""
    if form == "json":
        return {"json": fields}
    if form == "form":
        return {"data": fields}
    with aiohttp.MultipartWriter("form-data") as parts:
        for name, value in fields.items():
            parts.append(value).set_content_disposition("form-data", name=name)
    return {"data": parts}


async def test_every_answer_is_json_that_says_so(client: Client) -> None:
    """Answers and errors alike are `application/json` in UTF-8."""
    answers: list[Answered] = [
        await client.get("/conversations"),
        await client.get("/nowhere"),
        await client.post("/conversations/new", json={"prompt": "Hello?"}),
    ]
    assert {answer.headers["Content-Type"].partition(";")[0] for answer in answers} == {"application/json"}
