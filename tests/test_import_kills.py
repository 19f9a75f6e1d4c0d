# SPDX-License-Identifier: GPL-2.0-or-later
"""kill -9 while an export comes in, again and again: running it again finishes, and what is in the mirror after all is
what one holds that nobody disturbed.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp
import pytest
from hypothesis import settings

from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.archives import everything
from tests.export_huge import ACCOUNT, write_huge
from tests.exports import make_export
from tests.house import Client
from tests.process import Running, command, environment, started
from tests.rows import rows

SEED: Final = 20_261_122
LONGEST_DELAY_SECONDS: Final = 0.03  # of a kill after a step of progress: into whatever comes then
PATIENCE_SECONDS: Final = 60.0
ZIP: Final = {"Content-Type": "application/zip"}
PROGRESS: Final = "select (select count(*) from conversation) + (select count(*) from asset)"


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An export of a dozen batches and a hundred assets, in two parts."""
    folder = tmp_path_factory.mktemp("export")
    write_huge(folder / "huge.zip", 16_000_000, shard_bytes=3_000_000)
    return [folder / "huge.zip", *replace(make_export(7, conversations=100), account=ACCOUNT).write(folder / "odd")]


@pytest.fixture
def chatgpt() -> SimulatedChatGPT:
    """A ChatGPT in the time of this machine, as the processes are."""
    return SimulatedChatGPT(conversations=False)


def unmeasured(folder: Path, base_url: str = "http://127.0.0.1:9/") -> dict[str, str]:
    """What a process needs to know, but for coverage: one that is killed tells nothing of it."""
    environ = environment(folder, base_url)
    return {name: value for name, value in environ.items() if not name.startswith("COVERAGE_")}


def progress(folder: Path) -> int:
    """How many conversations and assets are in the mirror by now."""
    with suppress(Exception):  # there is no mirror yet, or none of its tables
        return int(rows(folder / "mirror.sqlite", PROGRESS)[0][0])
    return 0


def readers_of(pid: int) -> Iterator[int]:
    """The processes that a process has started."""
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        yield from map(int, children.split())


async def until_progress(folder: Path, target: int, process: Running) -> None:
    """Wait until so much is in the mirror, or the process has ended."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while progress(folder) < target and process.process.returncode is None:  # noqa: ASYNC110 - other process, no event
            await asyncio.sleep(0.002)


def left_over(folder: Path) -> list[str]:
    """Files beside the mirror that neither belong to it nor are an asset under its digest."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("mirror.sqlite") and len(path.name) != 64
    ]


def content(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything but when the account was first met, which is another time in each mirror."""
    return {table: found for table, found in everything(folder).items() if table != "account"}


async def undisturbed(export: list[Path], folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What a mirror holds into which the export came in peace."""
    finished = await command("import", *map(str, export), environ=environment(folder, "http://127.0.0.1:9/"))
    assert finished.status == 0, finished.err
    return content(folder)


async def test_an_import_that_is_killed_again_and_again_is_finished_by_the_next(
    export: list[Path], tmp_path: Path
) -> None:
    """Now the process that writes is killed and now the one that reads: what was there stays, nothing is doubled. In
    the end it is what an undisturbed import gives, and no file of a dead process is left.
    """
    kills = 100 if settings.get_current_profile_name() == "soak" else 10
    random = Random(SEED)
    expected = await undisturbed(export, tmp_path / "undisturbed")
    folder = tmp_path / "disturbed"
    whole = progress(tmp_path / "undisturbed")
    before = 0
    for target in sorted(random.sample(range(whole), kills)):
        async with started("import", *map(str, export), environ=unmeasured(folder)) as process:
            await until_progress(folder, target + 1, process)
            await asyncio.sleep(random.uniform(0, LONGEST_DELAY_SECONDS))
            if random.random() < 0.3:
                for reader in readers_of(process.pid):
                    with suppress(ProcessLookupError):  # it has ended by itself
                        os.kill(reader, signal.SIGKILL)
                await process.end()
            else:
                await process.end(signal.SIGKILL)
        assert progress(folder) >= before
        before = progress(folder)
    finished = await command("import", *map(str, export), environ=unmeasured(folder))
    assert finished.status == 0, finished.err
    assert content(folder) == expected
    assert left_over(folder) == left_over(tmp_path / "undisturbed") == []


async def test_a_reading_process_that_is_killed_ends_the_import_with_words(export: list[Path], tmp_path: Path) -> None:
    """The command says that it was killed and fails; what came stays, and running it again finishes."""
    async with started("import", *map(str, export), environ=unmeasured(tmp_path)) as process:
        await until_progress(tmp_path, 1, process)
        (reader,) = readers_of(process.pid)
        os.kill(reader, signal.SIGKILL)
        assert await process.end() == 1
        assert "killed" in process.text
    kept = progress(tmp_path)
    assert kept
    finished = await command("import", *map(str, export), environ=unmeasured(tmp_path))
    assert finished.status == 0
    assert progress(tmp_path) > kept


async def test_a_server_answers_while_it_imports_and_forgets_nothing_when_killed(
    export: list[Path], tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str
) -> None:
    """Reads and the budget are answered in the middle of an upload's import. A server that is killed then knows after
    its restart that the job was interrupted, has nothing of the upload left, and the same upload finishes.
    """
    user = chatgpt.alice
    packed = replace(make_export(8, conversations=300), account=user.user_id).write(tmp_path / "export")[0].read_bytes()
    environ = unmeasured(tmp_path, base_url)
    async with aiohttp.ClientSession() as session:
        async with started(environ=environ) as server:
            client = Client(session, await server.address(), user.token())
            job = (await client.post("/import", data=packed, headers=ZIP)).json["job"]
            states = []
            while not progress(tmp_path):
                answers = [await client.get(path) for path in ("/conversations", "/budget", f"/import/{job}")]
                assert [answer.status for answer in answers] == [200, 200, 200]
                states.append(answers[-1].json["state"])
            assert "running" in states
            await server.end(signal.SIGKILL)
        async with started(environ=environ) as server:
            client = Client(session, await server.address(), user.token())
            assert (await client.get(f"/import/{job}")).json["state"] == "interrupted"
            assert left_over(tmp_path / "work") == []
            job = (await client.post("/import", data=packed, headers=ZIP)).json["job"]
            await server.until(f"an import ended job={job}")
            status = (await client.get(f"/import/{job}")).json
            assert status["state"] == "done"
            assert progress(tmp_path) == 300 + status["ledger"]["assets"]["read"]
