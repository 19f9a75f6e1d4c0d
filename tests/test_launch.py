# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting a process where there is no uvloop: it is faster, and not needed."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

from tests.process import CHECKOUT

PROGRAM: Final = """
import asyncio, sys
if sys.argv[1] == "without":
    sys.modules["uvloop"] = None
from chatgpt_rest.launch import run

async def loop():
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]

print(run(loop()))
"""


@pytest.mark.parametrize(("there", "loop"), [("with", "uvloop"), ("without", "asyncio")])
def test_uvloop_is_used_where_there_is_one(there: str, loop: str) -> None:
    """Without it the program runs on Python's own event loop."""
    if there == "with":
        pytest.importorskip("uvloop")
    command = [sys.executable, "-W", "error", "-c", PROGRAM, there]
    ran = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == (f"{loop}\n", "")
