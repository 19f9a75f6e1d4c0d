# SPDX-License-Identifier: GPL-2.0-or-later
"""`/import` over HTTP: an export comes as an upload, becomes a job, and leaves nothing behind but what it brought."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp
import pytest

from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.disks import small_disk
from tests.house import Answered, Client, House, ManualClock, open_house, speak
from tests.process import PATIENCE_SECONDS
from tests.rows import rows

PNG: Final = b"\x89PNG\r\n\x1a\n a picture"
STRANGER: Final = "user-Str4nger"


def conversation(name: str, *said: str, asset: str | None = None) -> dict[str, Any]:
    """A conversation in the shape of an export; its last message shows an asset."""
    mapping: dict[str, Any] = {}
    for number, text in enumerate(said):
        node, parent = f"{name}-{number}", f"{name}-{number - 1}" if number else None
        parts: list[Any] = [text]
        if asset is not None and number == len(said) - 1:
            parts.append({"content_type": "image_asset_pointer", "asset_pointer": f"sediment://{asset}"})
        message = {
            "id": node,
            "author": {"role": "user" if number % 2 == 0 else "assistant"},
            "create_time": 1_700_000_000.25 + number,
            "content": {"content_type": "multimodal_text" if len(parts) > 1 else "text", "parts": parts},
        }
        mapping[node] = {"id": node, "parent": parent, "message": message}
    return {
        "id": name,
        "title": name.title(),
        "create_time": 1_700_000_000.25,
        "update_time": 1_700_000_009.5,
        "current_node": f"{name}-{len(said) - 1}",
        "mapping": mapping,
    }


def export(*conversations: dict[str, Any], account: str | None = None, assets: dict[str, bytes] | None = None) -> bytes:
    """A ZIP of these."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversations.json", json.dumps(conversations))
        if account is not None:
            archive.writestr("user.json", json.dumps({"id": account, "email": "somebody@home"}))
        for name, content in (assets or {}).items():
            archive.writestr(name, content)
    return made.getvalue()


GROCERIES: Final = export(conversation("groceries", "What do I need?", "Milk."))


@pytest.fixture(scope="module")
def large() -> bytes:
    """An export of twenty conversations of a megabyte, in as many transactions."""
    return export(*(conversation(f"c{number}", Random(number).randbytes(500_000).hex()) for number in range(20)))


def reading_process() -> int:
    """The one process that this one has started."""
    (pid,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split()
    return int(pid)


async def upload(client: Client, *files: bytes, **fields: str) -> Answered:
    """Send these files, as a form does."""
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        form.add_field(name, value)
    for number, content in enumerate(files):
        form.add_field("file", io.BytesIO(content), filename=f"export-{number}.zip", content_type="application/zip")
    return await client.post("/import", data=form)


async def ended(client: Client, answered: Answered) -> dict[str, Any]:
    """How the job ended that an upload has become."""
    assert answered.status == 202, answered.body
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            status: dict[str, Any] = (await client.get(answered.json["url"])).json
            if status["state"] not in {"waiting", "running"}:
                return status


def spooled(house: House) -> list[Path]:
    """What lies in the work folder."""
    return list(house.config.work_folder.iterdir())


async def test_an_export_comes_in(house: House, client: Client, chatgpt: SimulatedChatGPT) -> None:
    """202 with the job and where to ask for it; in the end its ledger, and the conversations as any others; nothing was
    asked upstream but who it is, and the upload is gone.
    """
    picture = conversation("holiday", "Look", asset="file_0000000000000001")
    made = export(picture, account=chatgpt.alice.user_id, assets={"file_0000000000000001.dat": PNG})
    answered = await upload(client, made)
    assert answered.headers["Location"] == answered.json["url"] == f"/import/{answered.json['job']}"
    status = await ended(client, answered)
    assert (status["state"], status["error"], status["job"]) == ("done", None, answered.json["job"])
    assert status["ledger"]["conversations"]["imported"] == 1
    assert status["ledger"]["assets"]["placed"] == 1
    said = (await client.get("/conversations/holiday/messages")).json
    assert [message["message"] for message in said] == ["Look"]
    assert (await client.get("/assets/file_0000000000000001")).body == PNG
    assert chatgpt.received() == 1
    assert spooled(house) == []


async def test_several_parts_are_one_import(client: Client) -> None:
    """Each is a part called `file`; other fields are passed over."""
    other = export(conversation("holiday", "Where to?"))
    status = await ended(client, await upload(client, GROCERIES, other, comment="hello"))
    assert status["ledger"]["conversations"]["imported"] == 2


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("application/zip", GROCERIES), ("application/json", json.dumps([conversation("groceries", "Milk.")]).encode())],
)
async def test_the_body_may_be_the_file(client: Client, content_type: str, body: bytes) -> None:
    """As `curl --data-binary` sends it."""
    answered = await client.post("/import", data=body, headers={"Content-Type": content_type})
    assert (await ended(client, answered))["ledger"]["conversations"]["imported"] == 1


async def test_a_dry_run_brings_nothing(house: House, client: Client) -> None:
    """As a field of the form, or in the query of a plain body: the ledger says what would come."""
    headers = {"Content-Type": "application/zip"}
    asked = [
        await ended(client, await upload(client, GROCERIES, dry_run="true")),
        await ended(client, await client.post("/import?dry_run=true", data=GROCERIES, headers=headers)),
    ]
    for status in asked:
        assert status["ledger"]["dry_run"] is True
        assert status["ledger"]["conversations"]["imported"] == 1
    assert rows(house, "select * from conversation") == []


async def test_another_accounts_export_is_refused(house: House, client: Client) -> None:
    """409 at once, nothing written; the credential's account is what counts over HTTP."""
    answered = await upload(client, export(conversation("secret", "Hush"), account=STRANGER))
    assert (answered.status, answered.json["code"]) == (409, "other_account")
    assert STRANGER not in answered.body.decode()
    assert rows(house, "select id from conversation") == []
    assert rows(house, "select state from import_job") == [("failed",)]
    assert spooled(house) == []


async def test_what_is_no_export_fails_as_a_job(house: House, client: Client) -> None:
    """The answer says where to read why."""
    answered = await upload(client, b"PK\x03\x04 and then nothing")
    assert (answered.status, answered.json["state"]) == (202, "failed")
    status = await ended(client, answered)
    assert (status["ledger"], status["error"]["code"]) == (None, "export_refused")
    assert "export-0.zip" in status["error"]["error"]
    assert str(house.config.work_folder) not in status["error"]["error"]
    assert spooled(house) == []


async def test_a_job_is_its_accounts_own(house: House, client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Another one does not find it, and neither does anybody find what is no job."""
    answered = await upload(client, GROCERIES)
    await ended(client, answered)
    bob = house.client_of(chatgpt.bob)
    for asked in (await bob.get(answered.json["url"]), await client.get("/import/nothing")):
        assert (asked.status, asked.json["code"]) == (404, "not_found")


async def test_who_is_nobody_sends_nothing(house: House, client: Client) -> None:
    """401 before any byte is written."""
    assert (await upload(client.as_(None), GROCERIES)).status == 401
    assert spooled(house) == []


# ----------------------------------------------------------------------------------------------- one after the other


async def half_an_upload(house: House) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An upload of Alice's that has begun, and of which the rest is still to come."""
    host, _, port = house.client.address.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /import HTTP/1.1\r\nHost: localhost\r\nAuthorization: {house.client.authorization}\r\n"
        f"Content-Type: application/zip\r\nContent-Length: {len(GROCERIES)}\r\n\r\n"
    )
    writer.write(head.encode() + GROCERIES[:10])
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not spooled(house):
            await house.client.get("/healthz")
    return reader, writer


async def test_one_import_of_an_account_at_a_time(house: House, client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The second is told which one is under way; another account's comes in meanwhile, and after it one may again."""
    reader, writer = await half_an_upload(house)
    refused = await upload(client, GROCERIES)
    assert (refused.status, refused.json["code"]) == (409, "import_running")
    waiting = await client.get(f"/import/{refused.json['job']}")
    assert (waiting.status, waiting.json["state"]) == (200, "waiting")
    bob = house.client_of(chatgpt.bob)
    assert (await ended(bob, await upload(bob, GROCERIES)))["state"] == "done"
    writer.write(GROCERIES[10:])
    assert (await reader.readline()).startswith(b"HTTP/1.1 202")
    writer.close()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (again := await upload(client, GROCERIES)).status == 409:
            assert again.json["job"] == refused.json["job"]
    assert (await ended(client, again))["ledger"]["conversations"]["unchanged"] == 1


async def test_an_upload_that_breaks_off_leaves_nothing(house: House, client: Client) -> None:
    """The client hangs up: its file goes, and so does its claim to be the only one."""
    _, writer = await half_an_upload(house)
    writer.transport.abort()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while spooled(house):
            await client.get("/healthz")
    assert (await ended(client, await upload(client, GROCERIES)))["state"] == "done"


async def test_how_far_it_is_can_be_asked(client: Client, clock: ManualClock, large: bytes) -> None:
    """What has been read of how much, how fast, and how long the rest takes at that speed; no ledger yet."""
    answered = await upload(client, large)
    reader = reading_process()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (status := (await client.get(answered.json["url"])).json)["progress"]["conversations"]:
            pass
    os.kill(reader, signal.SIGSTOP)
    clock.move(seconds=1_000)
    status = (await client.get(answered.json["url"])).json
    os.kill(reader, signal.SIGCONT)
    assert (status["state"], status["ledger"], status["ended_at"]) == ("running", None, None)
    progress = status["progress"]
    assert 0 < progress["conversations"] == progress["messages"] < 20
    assert 0 < progress["done_bytes"] < progress["total_bytes"]
    assert progress["bytes_per_second"] == round(progress["done_bytes"] / 1_000)
    assert progress["seconds_left"] > 0
    assert (await ended(client, answered))["progress"] is None


async def test_what_is_refused_waits_for_nobody(
    house: House, client: Client, chatgpt: SimulatedChatGPT, large: bytes
) -> None:
    """Another account's export is 409 at once while somebody's import is being read; one's own waits for its turn."""
    first = await upload(client, large)
    reader = reading_process()
    os.kill(reader, signal.SIGSTOP)
    bob = house.client_of(chatgpt.bob)
    refused = await upload(bob, export(conversation("secret", "Hush"), account=STRANGER))
    assert (refused.status, refused.json["code"]) == (409, "other_account")
    nothing = await upload(bob, b"no ZIP")
    assert (nothing.status, nothing.json["state"]) == (202, "failed")
    waits = await upload(bob, GROCERIES)
    assert (waits.status, waits.json["state"]) == (202, "waiting")
    os.kill(reader, signal.SIGCONT)
    assert [(await ended(client, first))["state"], (await ended(bob, waits))["state"]] == ["done", "done"]


async def test_a_stop_interrupts_it(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, large: bytes
) -> None:
    """The next server knows, what came stays, and the same upload finishes it."""
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        answered = await upload(house.client, large)
        assert answered.json["state"] in {"waiting", "running"}
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        status = await ended(house.client, answered)
        assert status["state"] == "interrupted"
        assert status["ended_at"] is not None
        assert spooled(house) == []
        again = await ended(house.client, await upload(house.client, large))
        counts = again["ledger"]["conversations"]
        assert counts["imported"] + counts["unchanged"] == counts["read"] == 20
        assert (await house.client.get("/conversations/c19")).status == 200


async def test_what_a_killed_process_left_is_removed(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Uploads of the process before, at the next start."""
    (tmp_path / "work" / "1234" / "1").mkdir(parents=True)
    (tmp_path / "work" / "1234" / "1" / "export.zip").write_bytes(b"left")
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        assert spooled(house) == []
        assert house.config.work_folder.stat().st_mode & 0o777 == 0o700


async def test_how_it_ended_outlives_the_server(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Word for word, good or bad."""
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        good = await ended(house.client, done := await upload(house.client, GROCERIES))
        bad = await ended(house.client, failed := await upload(house.client, b"no ZIP"))
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        assert (await house.client.get(done.json["url"])).json == good
        assert (await house.client.get(failed.json["url"])).json == bad


# --------------------------------------------------------------------------------------------------------- cancelled


async def test_an_import_can_be_cancelled(house: House, client: Client, large: bytes) -> None:
    """204, and as often as one likes; what came stays, the upload goes, and the next import may come."""
    answered = await upload(client, large)
    os.kill(reading_process(), signal.SIGSTOP)
    for _ in range(2):
        cancelled = await client.delete(answered.json["url"])
        assert (cancelled.status, cancelled.body) == (204, b"")
    status = (await client.get(answered.json["url"])).json
    assert (status["state"], status["error"]["code"]) == ("interrupted", "interrupted")
    assert "cancelled" in status["error"]["error"]
    assert rows(house, "select state from import_job") == [("interrupted",)]
    assert spooled(house) == []
    assert (await ended(client, await upload(client, GROCERIES)))["state"] == "done"


async def test_an_import_that_waits_can_be_cancelled(
    house: House, client: Client, chatgpt: SimulatedChatGPT, large: bytes
) -> None:
    """It never takes its turn."""
    bob = house.client_of(chatgpt.bob)
    first = await upload(client, large)
    reader = reading_process()
    os.kill(reader, signal.SIGSTOP)
    waits = await upload(bob, GROCERIES)
    assert (await bob.delete(waits.json["url"])).status == 204
    status = (await bob.get(waits.json["url"])).json
    assert (status["state"], status["ledger"]) == ("interrupted", None)
    os.kill(reader, signal.SIGCONT)
    assert (await ended(client, first))["state"] == "done"


async def test_an_upload_that_comes_in_can_be_cancelled(house: House, client: Client) -> None:
    """Whoever sends it is told, nothing is left of it, and the next one may come at once."""
    reader, writer = await half_an_upload(house)
    job = (await upload(client, GROCERIES)).json["job"]
    assert (await client.delete(f"/import/{job}")).status == 204
    assert spooled(house) == []
    assert (await reader.readline()).startswith(b"HTTP/1.1 409")
    writer.close()
    assert (await client.get(f"/import/{job}")).status == 404
    assert (await ended(client, await upload(client, GROCERIES)))["state"] == "done"


async def test_an_import_that_is_over_is_left_as_it_is(house: House, client: Client, chatgpt: SimulatedChatGPT) -> None:
    """204 as well; 404 for whoever's it is not, and for what is no import."""
    first = await ended(client, answered := await upload(client, GROCERIES))
    await ended(client, await upload(client, GROCERIES))
    assert (await client.delete(answered.json["url"])).status == 204
    assert (await client.get(answered.json["url"])).json == first
    assert (await house.client_of(chatgpt.bob).delete(answered.json["url"])).status == 404
    for name in ("nothing", "-"):
        assert (await client.delete(f"/import/{name}")).status == 404


# ------------------------------------------------------------------------------------------------ too much, too slow


@pytest.fixture
async def small_house(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> AsyncIterator[House]:
    """One that takes no more than 100,000 bytes, and waits no longer than a tenth of a second."""
    settings = {"archive__max_upload_bytes": "100000", "server__body_timeout_seconds": "0.1"}
    async with open_house(tmp_path, chatgpt, base_url, clock, **settings) as house:
        yield house


async def test_too_large_an_upload_is_refused_by_its_length(small_house: House) -> None:
    """413 before anything is read, let alone written."""
    said = (
        f"POST /import HTTP/1.1\r\nHost: localhost\r\nAuthorization: {small_house.client.authorization}\r\n"
        "Content-Type: application/zip\r\nContent-Length: 200000\r\n\r\n"
    )
    answered = await speak(small_house.client.address, said.encode())
    assert (answered.status, answered.json["code"]) == (413, "too_large")
    assert spooled(small_house) == []


@pytest.mark.parametrize("is_form", [True, False], ids=["form", "body"])
async def test_too_large_an_upload_is_refused_as_it_comes(small_house: House, *, is_form: bool) -> None:
    """One that does not say how long it is; what came of it is removed."""

    async def endless() -> AsyncIterator[bytes]:
        if is_form:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.zip"\r\n\r\n'
        for _ in range(200):
            yield b"x" * 1_000

    kind = "multipart/form-data; boundary=b" if is_form else "application/zip"
    answered = await small_house.client.post("/import", data=endless(), headers={"Content-Type": kind})
    assert (answered.status, answered.json["code"]) == (413, "too_large")
    assert spooled(small_house) == []


@pytest.mark.parametrize("is_form", [True, False], ids=["form", "body"])
async def test_an_upload_that_stalls_is_given_up(small_house: House, *, is_form: bool) -> None:
    """408, and what came of it is removed."""
    kind = "multipart/form-data; boundary=b" if is_form else "application/zip"
    said = (
        f"POST /import HTTP/1.1\r\nHost: localhost\r\nAuthorization: {small_house.client.authorization}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: 20000\r\n\r\n"
    )
    part = '--b\r\nContent-Disposition: form-data; name="file"; filename="x.zip"\r\n\r\nPK' if is_form else "PK"
    answered = await speak(small_house.client.address, said.encode() + part.encode())
    assert (answered.status, answered.json["code"]) == (408, "request_timeout")
    assert spooled(small_house) == []


async def test_what_finds_no_room_is_refused(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """503 and `storage_full` before anything is written, where its length says so."""
    settings = {"archive__max_upload_bytes": str(2**53)}
    async with open_house(tmp_path, chatgpt, base_url, clock, **settings) as house:
        said = (
            f"POST /import HTTP/1.1\r\nHost: localhost\r\nAuthorization: {house.client.authorization}\r\n"
            f"Content-Type: application/zip\r\nContent-Length: {2**53}\r\n\r\n"
        )
        answered = await speak(house.client.address, said.encode())
        assert (answered.status, answered.json["code"]) == (503, "storage_full")
        assert spooled(house) == []


@pytest.mark.parametrize("is_told", [True, False], ids=["by its length", "as it comes"])
async def test_an_upload_leaves_the_mirror_room(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, *, is_told: bool
) -> None:
    """A twentieth of a small disk stays free: 503 before, or as soon as it would not, and what came goes at once."""
    with small_disk(tmp_path / "disk", size_mib=32) as disk:
        reserve_bytes = shutil.disk_usage(disk).total // 20
        async with open_house(disk, chatgpt, base_url, clock) as house:
            await house.client.get("/conversations")
            free_bytes = [shutil.disk_usage(disk).free]
            size_bytes = free_bytes[0] - reserve_bytes // 2

            async def content() -> AsyncIterator[bytes]:
                for _ in range(size_bytes // 100_000):
                    free_bytes.append(shutil.disk_usage(disk).free)
                    yield b"x" * 100_000

            headers = {"Content-Type": "application/zip"}
            if is_told:
                headers["Content-Length"] = str(size_bytes // 100_000 * 100_000)
            answered = await house.client.post("/import", data=content(), headers=headers)
            assert (answered.status, answered.json["code"]) == (503, "storage_full")
            assert min(free_bytes) > reserve_bytes * 0.9
            assert (min(free_bytes) > size_bytes * 0.9) == is_told
            assert spooled(house) == []


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--b--\r\n',
            400,
        ),
        ("multipart/form-data; boundary=b", b"no form at all", 400),
        ("multipart/form-data", b"--b--", 400),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nPK', 400),
        ("text/plain", b"hello", 415),
        ("application/zip", b"", 202),
    ],
    ids=["no file", "no form", "no boundary", "cut short", "another type", "empty"],
)
async def test_what_is_no_upload_is_told(house: House, client: Client, kind: str, body: bytes, status: int) -> None:
    """With the status that fits, and nothing left of it."""
    answered = await client.post("/import", data=body, headers={"Content-Type": kind})
    assert answered.status == status
    if status == 202:
        assert (await ended(client, answered))["error"]["code"] == "export_refused"
    assert spooled(house) == []


async def test_a_compressed_body_is_refused(client: Client) -> None:
    """A ZIP is compressed already, and what is counted is what comes."""
    headers = {"Content-Type": "application/zip", "Content-Encoding": "gzip"}
    answered = await client.post("/import", data=GROCERIES, headers=headers)
    assert (answered.status, answered.json["code"]) == (415, "unsupported_media_type")


async def test_a_files_name_is_only_a_name(house: House, client: Client) -> None:
    """Whatever a client calls its file, it lies in the work folder."""
    form = aiohttp.FormData()
    form.add_field("file", b"no ZIP", filename="../../../escaped .zip", content_type="application/zip")
    status = await ended(client, await client.post("/import", data=form))
    assert status["error"]["code"] == "export_refused"
    assert not list(house.config.mirror.path.parent.rglob("*escaped*"))
