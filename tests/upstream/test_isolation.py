# SPDX-License-Identifier: GPL-2.0-or-later
"""In a process of its own, under an audit hook: no third party, no disk, no standard output, no import too early."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WATCH = """
import asyncio, logging, os, sys

opened, connected, looked_up = [], [], []

def watch(event, args):
    if event == "socket.connect":
        connected.append(args[1])
    elif event == "socket.getaddrinfo":
        looked_up.append(args[0])
    elif event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        opened.append(args[0])
    elif event in {"os.mkdir", "os.rename", "os.remove", "os.symlink", "subprocess.Popen", "os.system"}:
        opened.append((event, args[0]))

sys.addaudithook(watch)
"""

EVERYTHING = (
    WATCH
    + """
from chatgpt_rest.model import Question, Secret
from chatgpt_rest.upstream.protocol import Caller
from chatgpt_rest.upstream.revchatgpt import RevChatGPT
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.upstream.far_end import PROMPT_ID, RecordingGate

async def main():
    chatgpt = SimulatedChatGPT(conversations=False)
    async with chatgpt.serving() as base_url:
        connected.clear(), looked_up.clear(), opened.clear()
        gate = RecordingGate()
        alice = Caller("alice", Secret(chatgpt.alice.token()), gate)
        upstream = RevChatGPT(base_url=base_url)
        async with upstream.ask(alice, Question(PROMPT_ID, "Hello?", None, None, None)) as answer:
            async for _ in answer:
                pass
        assert answer.is_complete
        page = await upstream.list_page(alice, offset=0, limit=100)
        project = chatgpt.alice.add_project("Garden")
        await upstream.list_projects(alice)
        await upstream.list_project(alice, project)
        tree = await upstream.conversation(alice, page.items[0].id)
        await upstream.edit(alice, tree.id, title="New")
        async with upstream.ask(alice, Question("b", "More?", tree.id, tree.current_node, None)) as answer:
            async for _ in answer:
                break
        await upstream.delete(alice, tree.id)
        await upstream.delete_all(alice)
        await upstream.aclose()
        assert len(gate.outcomes) == chatgpt.received() == 9
        port = int(base_url.split(":")[2].split("/")[0])
        assert set(connected) <= {("127.0.0.1", port)}, connected  # uvloop's own connections are not audited
        assert set(looked_up) <= {"127.0.0.1", b"127.0.0.1"}, looked_up
        assert opened == [], opened

assert "revChatGPT" not in sys.modules
logging.basicConfig(level=logging.WARNING)
"""
)

API = (
    WATCH
    + """
from chatgpt_rest.clock import SystemClock
from chatgpt_rest.model import Question, Secret
from chatgpt_rest.upstream.openai_api import OpenAIUpstream
from chatgpt_rest.upstream.protocol import Caller
from chatgpt_rest.upstream.simulated import SimulatedOpenAI
from tests.upstream.far_end import PROMPT_ID, RecordingGate

async def main():
    api = SimulatedOpenAI()
    async with api.serving() as base_url:
        connected.clear(), looked_up.clear(), opened.clear()
        gate = RecordingGate()
        me = Caller("me", Secret(api.key), gate)
        upstream = OpenAIUpstream(base_url=base_url, clock=SystemClock())
        async with upstream.ask(me, Question(PROMPT_ID, "Hello?", None, None, "gpt-large")) as answer:
            async for _ in answer:
                pass
        assert answer.is_complete
        assert len(await upstream.models(me)) == 2
        async with upstream.ask(me, Question("b", "More?", "c", "a", "gpt-large")) as answer:
            async for _ in answer:
                break
        await upstream.aclose()
        assert len(gate.outcomes) == len(api.received) == 3
        port = int(base_url.split(":")[2].split("/")[0])
        assert set(connected) <= {("127.0.0.1", port)}, connected
        assert set(looked_up) <= {"127.0.0.1", b"127.0.0.1"}, looked_up
        assert opened == [], opened

assert "openai" not in sys.modules
logging.basicConfig(level=logging.WARNING)
asyncio.run(main())
"""
)

ASYNCIO = EVERYTHING + "asyncio.run(main())\n"
UVLOOP = EVERYTHING + "import uvloop\nuvloop.run(main())\n"


def run(program: str) -> subprocess.CompletedProcess[str]:
    """What became of `program` in an interpreter where every warning is an error."""
    return subprocess.run(
        [sys.executable, "-B", "-X", "dev", "-W", "error", "-c", program],
        cwd=ROOT,
        env={
            "HOME": "/nonexistent",
            "PYTHONPATH": str(ROOT),
            "CHATGPT_BASE_URL": "http://127.0.0.1:9/",
            "LANG": "C.UTF-8",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("program", [ASYNCIO, UVLOOP, API], ids=["asyncio", "uvloop", "api"])
def test_only_upstream_is_contacted_and_nothing_is_written(program: str) -> None:
    """Every method, with no home directory, on both loops: upstream alone is met, no file, no word, no warning."""
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_of_upstream_is_imported_before_it_is_needed() -> None:
    """A server that only reads its mirror never pays for revChatGPT, httpx and what they drag in."""
    done = run(
        "import sys\nimport chatgpt_rest.upstream.revchatgpt, chatgpt_rest.upstream.openai_api\n"
        "early = {'revChatGPT', 'httpx', 'httpx2', 'requests', 'openai', 'rich', 'prompt_toolkit'} & set(sys.modules)\n"
        "assert not early, early\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
