# SPDX-License-Identifier: GPL-2.0-or-later
"""Bodies: every way to send fields, and every way to send nonsense."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import time
from pathlib import Path
from typing import Final

import pytest

from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Answered, Client, ManualClock, open_house, speak

JSON: Final = {"Content-Type": "application/json"}
FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}
PARTS: Final = {"Content-Type": "multipart/form-data; boundary=x"}
CANARY: Final = "canary-7f3a"


async def new(client: Client, headers: dict[str, str], body: bytes) -> Answered:
    """`POST /conversations/new` with exactly this body."""
    return await client.post("/conversations/new", headers=headers, data=io.BytesIO(body))


def part(value: bytes, *, name: str = "prompt", headers: str = "") -> bytes:
    """One part of a form whose boundary is `x`."""
    return f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n{headers}\r\n'.encode() + value + b"\r\n"


MALFORMED: Final = {
    "no JSON": (JSON, b"{prompt: canary-7f3a}", "the body is no valid JSON"),
    "empty JSON": (JSON, b"", "the body is no valid JSON"),
    "half of JSON": (JSON, b'{"prompt": "canary-7f3a', "the body is no valid JSON"),
    "no UTF-8": (JSON, b'{"prompt": "\xff\xfe"}', "the body is no valid JSON"),
    "a huge number": (JSON, b'{"prompt": ' + b"9" * 5000 + b"}", "the body is no valid JSON"),
    "an array": (JSON, b'["canary-7f3a"]', "the JSON must be an object"),
    "a string": (JSON, b'"canary-7f3a"', "the JSON must be an object"),
    "null": (JSON, b"null", "the JSON must be an object"),
    "deep arrays": (JSON, b"[" * 100_000 + b"]" * 100_000, "the JSON is nested too deeply"),
    "deep objects": (JSON, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "the JSON is nested too deeply"),
    "deep and unended": (JSON, b"[" * 100_000, "the JSON is nested too deeply"),
    "no such charset": (
        {"Content-Type": "application/json; charset=canary-7f3a"},
        b"{}",
        "the charset in Content-Type is unknown",
    ),
    "no charset of text": (
        {"Content-Type": "application/json; charset=base64"},
        b"{}",
        "the charset in Content-Type is unknown",
    ),
    "a charset that takes for ever": (
        {"Content-Type": "application/json; charset=punycode"},
        b'{"prompt": "' + b"a" * 400_000 + b'"}',
        "the charset in Content-Type is unknown",
    ),
    "a form in no charset": (
        {"Content-Type": "application/x-www-form-urlencoded; charset=canary-7f3a"},
        b"prompt=x",
        "the charset in Content-Type is unknown",
    ),
    "a form in punycode": (
        {"Content-Type": "application/x-www-form-urlencoded; charset=punycode"},
        b"prompt=" + b"a" * 400_000,
        "the charset in Content-Type is unknown",
    ),
    "no boundary": ({"Content-Type": "multipart/form-data"}, b"canary-7f3a", "the form is malformed"),
    "another boundary": (PARTS, b"--y\r\n\r\ncanary-7f3a\r\n--y--\r\n", "the form is malformed"),
    "no end": (PARTS, part(b"canary-7f3a"), "the form is malformed"),
    "no name": (PARTS, b"--x\r\n\r\ncanary-7f3a\r\n--x--\r\n", "the form is malformed"),
    "nested parts": (
        PARTS,
        part(b"--y\r\n\r\nz\r\n--y--", headers="Content-Type: multipart/mixed; boundary=y\r\n") + b"--x--\r\n",
        "the form is malformed",
    ),
    "a part in no charset": (
        PARTS,
        part(b"canary-7f3a", headers="Content-Type: text/plain; charset=canary-7f3a\r\n") + b"--x--\r\n",
        "the charset in Content-Type is unknown",
    ),
    "a part in punycode": (
        PARTS,
        part(b"a" * 400_000, headers="Content-Type: text/plain; charset=punycode\r\n") + b"--x--\r\n",
        "the charset in Content-Type is unknown",
    ),
    "a part in a wrong charset": (
        PARTS,
        part(b"\xff\xfe", headers="Content-Type: text/plain; charset=utf-8\r\n") + b"--x--\r\n",
        "the form is malformed",
    ),
    "a part in an odd encoding": (
        PARTS,
        part(b"canary-7f3a", headers="Content-Transfer-Encoding: canary-7f3a\r\n") + b"--x--\r\n",
        "the form is malformed",
    ),
    "a form that is no UTF-8": (FORM, b"prompt=\xff\xfe", "the form is malformed"),
    "a form that is no UTF-8 behind its percent signs": (FORM, b"prompt=%ff%fe", "the form is malformed"),
    "a field's name that is no UTF-8": (FORM, b"prompt=x&%ff=canary-7f3a", "the form is malformed"),
    "a part's header with no colon": (
        PARTS,
        part(b"x", headers="canary-7f3a\r\n") + b"--x--\r\n",
        "the form is malformed",
    ),
    "a part's header with a space in its name": (
        PARTS,
        part(b"x", headers="canary 7f3a: x\r\n") + b"--x--\r\n",
        "the form is malformed",
    ),
    "a part's header with a NUL": (
        PARTS,
        part(b"x", headers="A: canary-7f3a\0\r\n") + b"--x--\r\n",
        "the form is malformed",
    ),
    "a part's header that is over-long": (
        PARTS,
        part(b"x", headers="A: " + "canary-7f3a" * 10_000 + "\r\n") + b"--x--\r\n",
        "the form is malformed",
    ),
    "a part with too many headers": (
        PARTS,
        part(b"x", headers="canary-7f3a: x\r\n" * 5_000) + b"--x--\r\n",
        "the form is malformed",
    ),
}


@pytest.mark.parametrize("malformed", MALFORMED)
async def test_a_malformed_body(
    client: Client,
    chatgpt: SimulatedChatGPT,
    caplog: pytest.LogCaptureFixture,
    malformed: str,
) -> None:
    """A body that cannot be read is a 400 that says why, at once, and nothing of it is repeated or logged."""
    caplog.set_level(logging.DEBUG)
    headers, body, words = MALFORMED[malformed]
    began = time.monotonic()
    refused = await new(client, headers, body)
    assert (refused.status, refused.json) == (400, {"error": words, "code": "bad_request"})
    assert CANARY not in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert time.monotonic() - began < 3
    assert chatgpt.received("POST") == 0


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "Application/JSON; Charset=UTF-8"}, '{"prompt": "Grüße"}'.encode()),
        ({"Content-Type": "application/vnd.api+json"}, '{"prompt": "Grüße"}'.encode()),
        ({"Content-Type": "application/json; charset=iso-8859-1"}, '{"prompt": "Grüße"}'.encode("latin-1")),
        ({"Content-Type": "application/json; charset=utf-16"}, '{"prompt": "Grüße"}'.encode("utf-16")),
        ({"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}, b"prompt=Gr%C3%BC%C3%9Fe"),
        (FORM, b"prompt=Gr%C3%BC%C3%9Fe&prompt=second"),
        (PARTS, part("Grüße".encode()) + b"--x--\r\n"),
        (PARTS, part("Grüße".encode()) + part(b"second") + b"--x--\r\n"),
        (PARTS, part("Grüße".encode("latin-1"), headers="Content-Type: text/plain; charset=latin-1\r\n") + b"--x--"),
        ({**JSON, "Content-Encoding": "gzip"}, gzip.compress('{"prompt": "Grüße"}'.encode())),
    ],
    ids=["capitals", "+json", "latin-1", "utf-16", "form", "twice", "multipart", "two parts", "latin-1 part", "gzip"],
)
async def test_a_body_that_is_read(
    client: Client, chatgpt: SimulatedChatGPT, headers: dict[str, str], body: bytes
) -> None:
    """Whatever form and charset the prompt came in, upstream receives its characters."""
    assert (await new(client, headers, body)).status == 201
    sent = json.loads(chatgpt.requests[-1].body)
    assert sent["messages"][0]["content"]["parts"] == ["Grüße"]


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "canary-7f3a", "multipart/mixed; boundary=x", ";;"])
async def test_another_media_type(client: Client, kind: str) -> None:
    """A body of any other type is a 415 that says which ones are read."""
    refused = await new(client, {"Content-Type": kind}, b"prompt=canary-7f3a")
    assert (refused.status, refused.json["code"]) == (415, "unsupported_media_type")
    assert CANARY.encode() not in refused.body


@pytest.mark.parametrize("field", ["prompt", "title", "model", "parent_id"])
async def test_a_field_of_the_wrong_type(client: Client, chatgpt: SimulatedChatGPT, field: str) -> None:
    """A field that is no string is a 400 that names it."""
    path = "/conversations/c0ffee/ask" if field == "parent_id" else "/conversations/new"
    values: list[object] = [1, 1.5, True, [], ["x"], {}, {"a": 1}]
    for value in values:
        refused = await client.post(path, json={"prompt": "Hello?", field: value})
        assert (refused.status, refused.json) == (400, {"error": f"{field} must be a string", "code": "bad_request"})
    assert chatgpt.received("POST") == 0


async def test_a_boolean_of_the_wrong_type(client: Client) -> None:
    """A boolean is true, false, or the name of one."""
    values: list[object] = [1, 0, "yes", "", "1", [], {}]
    for value in values:
        refused = await client.post("/conversations/new", json={"prompt": "Hello?", "autocontinue": value})
        assert refused.json == {"error": 'autocontinue must be "true" or "false"', "code": "bad_request"}
        refused = await client.patch("/conversations/c0ffee", json={"is_archived": value})
        assert refused.json == {"error": 'is_archived must be "true" or "false"', "code": "bad_request"}


@pytest.mark.parametrize("field", ["prompt", "title", "model", "parent_id"])
async def test_half_a_character(client: Client, chatgpt: SimulatedChatGPT, field: str) -> None:
    """A lone surrogate in a field is a 400 that names it, not a crash somewhere behind."""
    path = "/conversations/c0ffee/ask" if field == "parent_id" else "/conversations/new"
    body = b'{"prompt": "Hello?", "%s": "a\\ud800"}' % field.encode()
    refused = await client.post(path, headers=JSON, data=body)
    assert (refused.status, refused.json["code"]) == (400, "bad_request")
    assert refused.json["error"] == f"{field} holds half a character (a lone surrogate)"
    assert chatgpt.received("POST") == 0


async def test_half_a_character_in_a_field_nobody_knows(client: Client) -> None:
    """What is not read does no harm."""
    assert (await new(client, JSON, b'{"prompt": "Hello?", "\\ud800": "\\udfff"}')).status == 201


MODEL_RULE: Final = "model must be at most 200 printable characters, and no credential"


@pytest.mark.parametrize(
    "model",
    ["a" * 201, "gpt\n4", "gpt\x00", "\u2028", "eyJhbGciOiJI.eyJhdWQi.c2ln", "cgrt_abcdefgh"],
    ids=["long", "line", "NUL", "separator", "access token", "local key"],
)
async def test_a_model_s_name_is_short_and_printable(client: Client, model: str) -> None:
    """A model that no model can be called is a 400 that names the field."""
    refused = await client.post("/conversations/new", json={"prompt": "Hello?", "model": model})
    assert (refused.status, refused.json["error"]) == (
        400,
        "model must be at most 200 printable characters, and no credential",
    )


async def test_a_file_is_no_text(client: Client) -> None:
    """A file sent in a field's place is of the wrong type."""
    body = b'--x\r\nContent-Disposition: form-data; name="prompt"; filename="a"\r\n\r\nHello?\r\n--x--\r\n'
    refused = await new(client, PARTS, body)
    assert (refused.status, refused.json["error"]) == (400, "prompt must be a string")


@pytest.mark.parametrize("headers", [JSON, FORM, PARTS], ids=["json", "form", "multipart"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
async def test_a_body_too_large(client: Client, headers: dict[str, str], is_chunked: bool) -> None:
    """More than `max_body_bytes` is a 413, whether its length was announced or not."""
    body = part(b"a" * 4_200_000) + b"--x--\r\n" if headers is PARTS else b"prompt=" + b"a" * 4_200_000
    refused = await client.post(
        "/conversations/new", headers=headers, data=io.BytesIO(body), chunked=True if is_chunked else None
    )
    assert (refused.status, refused.json["code"]) == (413, "too_large")


@pytest.mark.parametrize("headers", [JSON, FORM, PARTS], ids=["json", "form", "multipart"])
async def test_a_body_announced_too_large(client: Client, headers: dict[str, str]) -> None:
    """A length beyond the limit is refused by its announcement: nobody sends or awaits such a body."""
    request = (
        "POST /conversations/new HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4194305\r\n"
        f"Authorization: {client.authorization}\r\nContent-Type: {headers['Content-Type']}\r\n\r\n"
    )
    async with asyncio.timeout(2):
        refused = await speak(client.address, request.encode())
    assert (refused.status, refused.json["code"]) == (413, "too_large")


@pytest.mark.parametrize("headers", [JSON, FORM, PARTS], ids=["json", "form", "multipart"])
@pytest.mark.parametrize("encoding", ["compress", "canary-7f3a", "gzip, deflate", "gzip gzip"])
async def test_an_encoding_that_nobody_unpacks(
    client: Client, chatgpt: SimulatedChatGPT, headers: dict[str, str], encoding: str
) -> None:
    """A body packed in any other way is a 415 that says which ones are read, and it is not read as it is."""
    refused = await new(client, {**headers, "Content-Encoding": encoding}, b"prompt=x")
    assert (refused.status, refused.json["code"]) == (415, "unsupported_media_type")
    assert "gzip or deflate" in refused.json["error"]
    assert CANARY.encode() not in refused.body
    assert chatgpt.received("POST") == 0


async def test_a_small_body_that_unpacks_large(client: Client) -> None:
    """The limit counts what a compressed body unpacks to."""
    refused = await new(client, {**JSON, "Content-Encoding": "gzip"}, gzip.compress(b" " * 50_000_000))
    assert (refused.status, refused.json["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    "body", [gzip.compress(b'{"prompt": "x"}')[:-12], b"no gzip at all"], ids=["truncated", "not gzip"]
)
async def test_a_compressed_body_that_is_broken(client: Client, chatgpt: SimulatedChatGPT, body: bytes) -> None:
    """A body that does not unpack is a 400."""
    refused = await new(client, {**JSON, "Content-Encoding": "gzip"}, body)
    assert (refused.status, refused.json["code"]) == (400, "bad_request")
    assert chatgpt.received("POST") == 0


@pytest.mark.parametrize("name", ["a", "field{}"], ids=["one name", "many names"])
async def test_fields_beyond_number(client: Client, name: str) -> None:
    """Hundreds of thousands of fields are refused, or passed over, in no time worth mentioning."""
    body = "&".join(name.format(number) + "=" for number in range(200_000)).encode()
    began = time.monotonic()
    refused = await new(client, FORM, body)
    assert refused.status in {400, 413}
    assert time.monotonic() - began < 3


async def test_parts_beyond_number(client: Client) -> None:
    """So are parts."""
    began = time.monotonic()
    refused = await new(client, PARTS, part(b"", name="a") * 50_000 + b"--x--\r\n")
    assert refused.status in {400, 413}
    assert time.monotonic() - began < 6


async def test_a_body_that_drips(tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock) -> None:
    """A body of any kind that does not come within `body_timeout_seconds` is a 408."""
    async with open_house(tmp_path, chatgpt, base_url, clock, server__body_timeout_seconds="0.2") as house:
        for headers in (JSON, FORM, PARTS):
            request = (
                "POST /conversations/new HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
                f"Authorization: {house.client.authorization}\r\nContent-Type: {headers['Content-Type']}\r\n\r\n--x"
            )
            async with asyncio.timeout(10):
                refused = await speak(house.client.address, request.encode())
            assert (refused.status, refused.json["code"]) == (408, "request_timeout")
