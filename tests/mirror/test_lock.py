# SPDX-License-Identifier: GPL-2.0-or-later
"""The lock against people who tidy up: who may open a mirror does not depend on the file that says whose it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from chatgpt_rest.errors import StartError
from chatgpt_rest.mirror import MIGRATIONS
from chatgpt_rest.mirror.database import open_database

CHECKOUT: Final = Path(__file__).parents[2]
HOLDER: Final = """
import asyncio, sys
from pathlib import Path
from chatgpt_rest.mirror import MIGRATIONS
from chatgpt_rest.mirror.database import open_database

async def hold():
    async with open_database(Path(sys.argv[1]), MIGRATIONS):
        print("open", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(hold())
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the mirror open until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "mirror.sqlite")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


async def refusal(path: Path) -> str:
    """Why the mirror at `path` cannot be opened."""
    with pytest.raises(StartError) as caught:
        async with open_database(path, MIGRATIONS):
            pass
    assert caught.value.code == "locked"
    return caught.value.text


async def test_a_deleted_name_plate_opens_no_door(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """Without it the holder is unknown, and each who tries is refused, the second as the first."""
    path = tmp_path / "mirror.sqlite"
    path.with_name("mirror.sqlite.lock").unlink()
    for _ in range(2):
        assert f"{path} is in use by process unknown;" in await refusal(path)
    assert holder.poll() is None


@pytest.mark.parametrize("plate", [b"", b"\xff\xfe"], ids=["empty", "no text"])
async def test_an_unreadable_name_plate_names_nobody(
    tmp_path: Path, holder: subprocess.Popen[str], plate: bytes
) -> None:
    """What was scribbled over is not taken for a process's number."""
    path = tmp_path / "mirror.sqlite"
    path.with_name("mirror.sqlite.lock").write_bytes(plate)
    assert "in use by process unknown;" in await refusal(path)
    assert holder.poll() is None


async def test_being_refused_does_not_change_the_name_plate(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """Whoever comes third is told of the first, not of the second."""
    path = tmp_path / "mirror.sqlite"
    for _ in range(2):
        assert f"in use by process {holder.pid};" in await refusal(path)


async def test_a_mirror_whose_name_plate_was_deleted_is_free_with_its_holders_end(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    """The lock is the kernel's: it goes with the process."""
    path = tmp_path / "mirror.sqlite"
    path.with_name("mirror.sqlite.lock").unlink()
    await refusal(path)
    holder.communicate()
    async with open_database(path, MIGRATIONS):
        assert path.with_name("mirror.sqlite.lock").read_text() != f"{holder.pid}\n"


@pytest.mark.parametrize("content", [b"x", b"SQLite format 2\0", b"notes\n" * 200], ids=["a byte", "SQLite 2", "notes"])
async def test_a_file_of_somebody_elses_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    """What is no database is refused by its first bytes, and not written over, however short it is."""
    path = tmp_path / "mirror.sqlite"
    path.write_bytes(content)
    with pytest.raises(StartError, match=r"is no database; name another place with \[mirror\] path"):
        async with open_database(path, MIGRATIONS):
            pass
    assert path.read_bytes() == content
    assert not path.with_name("mirror.sqlite-wal").exists()
