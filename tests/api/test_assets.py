# SPDX-License-Identifier: GPL-2.0-or-later
"""`GET /assets/{id}`: bytes that a stranger made, on the address that a person trusts."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

import pytest

from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Answered, Client, House

PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
CONTENTS: Final = {
    "image/png": PNG,
    "image/svg+xml": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "application/pdf": b"%PDF-1.7 and so on",
    "audio/wav": b"RIFF\0\0\0\0WAVEfmt ",
    "text/plain": b"<html><script>alert(1)</script></html>",
    "application/zip": b"PK\x03\x04 and so on",
    "application/octet-stream": b"\0\1\2\3",
}


async def keep(house: House, account: str, name: str | None, content: bytes, *, asset_id: str = "file-a") -> None:
    """An asset of an account, as an import keeps it."""
    await house.mirror.accounts.ensure(account, email=None)
    async with house.mirror.files.incoming() as file:
        await file.write(content)
        await house.mirror.of(account).assets.add(asset_id, await file.keep(), name=name, member=None)


@pytest.fixture
async def picture(house: House, chatgpt: SimulatedChatGPT) -> bytes:
    """A picture of Alice's, `file-a`."""
    await keep(house, chatgpt.alice.user_id, "Screenshot.png", PNG)
    return PNG


def saved_as(answered: Answered) -> tuple[str, str]:
    """How Content-Disposition would have it, and under which name, as a browser of these days reads that."""
    disposition = answered.headers["Content-Disposition"]
    return disposition.partition(";")[0], unquote(disposition.partition("filename*=UTF-8''")[2])


async def test_it_comes_as_it_is(client: Client, picture: bytes) -> None:
    """Byte for byte, with its type and its name, to be kept by nobody but the one who asked."""
    answered = await client.get("/assets/file-a")
    assert (answered.status, answered.body) == (200, picture)
    assert answered.headers["Content-Type"] == "image/png"
    assert answered.headers["Content-Length"] == str(len(picture))
    assert saved_as(answered) == ("inline", "Screenshot.png")
    assert answered.headers["Cache-Control"] == "private, no-cache"
    assert "Authorization" in answered.headers["Vary"]


async def test_no_browser_runs_anything_in_it(client: Client, picture: bytes) -> None:
    """Its type is not guessed, it runs in a sandbox, and other sites cannot embed it."""
    headers = (await client.get("/assets/file-a")).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert picture


@pytest.mark.parametrize(("kind", "content"), CONTENTS.items(), ids=CONTENTS)
async def test_only_what_runs_nothing_is_shown(
    house: House, client: Client, chatgpt: SimulatedChatGPT, kind: str, content: bytes
) -> None:
    """Pictures but SVG, recordings and PDFs are; everything else is to be saved. HTML is never called that."""
    await keep(house, chatgpt.alice.user_id, None, content)
    answered = await client.get("/assets/file-a")
    assert answered.headers["Content-Type"].partition(";")[0] == kind
    shown = {"image/png", "application/pdf", "audio/wav"}
    assert saved_as(answered)[0] == ("inline" if kind in shown else "attachment")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Screenshot.png", "Screenshot.png"),
        ("photo.JPEG", "photo.JPEG.png"),
        ("page.html", "page.html.png"),
        ("../../etc/passwd", "passwd.png"),
        ("C:\\Users\\me\\cat.png", "cat.png"),
        ("katze 🐈 \u202egnp.exe", "katze 🐈 gnp.exe.png"),
        ('a"b\\c;d\r\nSet-Cookie: x.png', "c;dSet-Cookie: x.png"),
        ("  ..", "file-a.png"),
        (None, "file-a.png"),
        ("x" * 500 + ".png", "x" * 146 + ".png"),
    ],
)
async def test_its_name_is_harmless_and_fits(
    house: House, client: Client, chatgpt: SimulatedChatGPT, name: str | None, expected: str
) -> None:
    """No path, nothing that steers a terminal or ends a header, and an ending that says what the bytes are."""
    await keep(house, chatgpt.alice.user_id, name, PNG)
    answered = await client.get("/assets/file-a")
    assert saved_as(answered)[1] == expected
    assert "Set-Cookie" not in answered.headers


async def test_another_accounts_is_not_there(house: House, chatgpt: SimulatedChatGPT, picture: bytes) -> None:
    """Neither by its id, nor by having the same id; and nothing comes without a credential."""
    bob = house.client_of(chatgpt.bob)
    assert (await bob.get("/assets/file-a")).status == 404
    await keep(house, chatgpt.bob.user_id, None, b"GIF89a, Bob's")
    assert (await bob.get("/assets/file-a")).body == b"GIF89a, Bob's"
    assert (await house.client.get("/assets/file-a")).body == picture
    assert (await house.client.as_(None).get("/assets/file-a")).status == 401


@pytest.mark.parametrize("path", ["file-b", "..%2f..%2fmirror.sqlite", "%2e%2e", "a%00b"])
async def test_what_is_not_there_is_not_found(client: Client, picture: bytes, path: str) -> None:
    """An unknown id, and what is no id at all."""
    answered = await client.get(f"/assets/{path}")
    assert (answered.status, answered.json["code"]) == (404, "not_found")
    assert picture


async def test_one_whose_file_is_gone_is_told_from_it(house: House, client: Client, picture: bytes) -> None:
    """So that somebody knows to import it again."""
    for file in (house.config.mirror.path.parent / "assets").rglob("*"):
        if file.is_file():
            file.unlink()
    answered = await client.get("/assets/file-a")
    assert (answered.status, answered.json["code"]) == (404, "asset_lost")
    assert picture


async def test_it_is_not_sent_twice(client: Client, picture: bytes) -> None:
    """Its ETag is its digest; who has it gets 304."""
    etag = (await client.get("/assets/file-a")).headers["ETag"]
    again = await client.get("/assets/file-a", headers={"If-None-Match": etag})
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", etag)
    assert (await client.get("/assets/file-a", headers={"If-None-Match": '"other"'})).body == picture


@pytest.mark.parametrize(
    ("asked", "part"),
    [("bytes=0-7", slice(0, 8)), ("bytes=1000-", slice(1000, None)), ("bytes=-5", slice(-5, None))],
)
async def test_a_part_of_it_can_be_had(
    client: Client, picture: bytes, asked: str, part: slice[int | None, int | None, None]
) -> None:
    """Recordings are played from the middle."""
    answered = await client.get("/assets/file-a", headers={"Range": asked})
    assert (answered.status, answered.body) == (206, picture[part])
    start, stop, _ = part.indices(len(picture))
    assert answered.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(picture)}"
    assert answered.headers["Accept-Ranges"] == "bytes"


async def test_a_part_that_is_not_there_is_refused(client: Client, picture: bytes) -> None:
    """With 416 and how long it is, as are the last no bytes; what is no range is taken for none."""
    for asked in ("bytes=5000-", "bytes=-0", "bytes=-000"):
        answered = await client.get("/assets/file-a", headers={"Range": asked})
        assert (answered.status, answered.headers["Content-Range"]) == (416, f"bytes */{len(picture)}")
    assert (await client.get("/assets/file-a", headers={"Range": "lines=1-2"})).body == picture


async def test_the_rest_of_another_version_is_all_of_it(client: Client, picture: bytes) -> None:
    """`If-Range` with another ETag: half of one and half of the other would be neither."""
    etag = (await client.get("/assets/file-a")).headers["ETag"]
    changed = await client.get("/assets/file-a", headers={"Range": "bytes=8-", "If-Range": '"other"'})
    assert (changed.status, changed.body) == (200, picture)
    same = await client.get("/assets/file-a", headers={"Range": "bytes=8-", "If-Range": etag})
    assert (same.status, same.body) == (206, picture[8:])


async def test_only_its_headers_can_be_had(client: Client, picture: bytes) -> None:
    """HEAD says what GET would."""
    answered = await client.request("HEAD", "/assets/file-a")
    assert (answered.status, answered.body) == (200, b"")
    assert answered.headers["Content-Length"] == str(len(picture))
    assert answered.headers["Content-Type"] == "image/png"


async def test_an_empty_one_is_empty(house: House, client: Client, chatgpt: SimulatedChatGPT) -> None:
    """No byte of it is there to have a range of."""
    await keep(house, chatgpt.alice.user_id, "nothing.txt", b"")
    answered = await client.get("/assets/file-a")
    assert (answered.status, answered.body) == (200, b"")
    assert (await client.get("/assets/file-a", headers={"Range": "bytes=0-"})).status == 416
