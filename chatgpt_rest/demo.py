# SPDX-License-Identifier: GPL-2.0-or-later
"""The server with a simulated ChatGPT behind it, so that a stranger can try it within a minute, and the latter
alone.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from chatgpt_rest.app import serve
from chatgpt_rest.clock import SystemClock
from chatgpt_rest.config import load_config
from chatgpt_rest.errors import StartError
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from chatgpt_rest.upstream.simulated.exports import write_export

_WRITES_EVERY_SECONDS: Final = 0.02  # one event of an answer: slow enough to be seen, fast enough not to wait for

_console: Final = Console(highlight=False, soft_wrap=True)


async def run_demo(host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. The mirror is a new one in a temporary folder, gone afterwards."""
    chatgpt = SimulatedChatGPT(event_pause_seconds=_WRITES_EVERY_SECONDS)
    with tempfile.TemporaryDirectory(prefix="chatgpt_rest-demo-") as folder:
        async with chatgpt.serving() as base_url:
            config = load_config(
                None,
                {
                    "CHATGPT_REST_SERVER__HOST": host,
                    "CHATGPT_REST_SERVER__PORT": str(port),
                    "CHATGPT_REST_SERVER__DRAIN_SECONDS": "2",
                    "CHATGPT_REST_MIRROR__PATH": str(Path(folder) / "mirror.sqlite"),
                    "CHATGPT_REST_UPSTREAM__BASE_URL": base_url,
                    "CHATGPT_REST_LOG__LEVEL": "WARNING",
                },
            )

            async def show(address: str) -> None:
                token = chatgpt.alice.token()
                header_file = Path(folder) / "header"
                header_file.touch(mode=0o600)
                header_file.write_text(f"Authorization: {token}\n", encoding="ascii")
                export_file = Path(folder) / "export.zip"
                write_export(chatgpt.alice, export_file)
                _show_demo(address, base_url, token, header_file, export_file)

            await serve(config, clock=SystemClock(), on_ready=show)


async def run_simulation(host: str, port: int) -> None:
    """Serve the simulated ChatGPT alone until SIGTERM or SIGINT."""
    chatgpt = SimulatedChatGPT(event_pause_seconds=_WRITES_EVERY_SECONDS)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with chatgpt.serving(host, port) as base_url:
            _show_simulation(base_url, chatgpt)
            await stop.wait()
    except OSError as error:
        raise StartError(f"{host}:{port} cannot be listened on: {error.strerror}; choose another --port") from error


def _show_demo(address: str, base_url: str, token: str, header_file: Path, export_file: Path) -> None:
    # From a file: on a command line everybody on the machine could read the token. And the lines stay short.
    curl = f"curl -s -H @{header_file}"
    newest = f"""$({curl} "{address}/conversations?limit=1" | grep -om1 '[0-9a-f-]\\{{36\\}}')"""
    _heading("chatgpt_rest demo")
    _field("address", address)
    _field("simulated ChatGPT", base_url)
    _field("access token", token)
    _heading("List the conversations")
    _line(f"{curl} {address}/conversations")
    _heading("Ask in a new one")
    _line(f"{curl} {address}/conversations/new -d prompt='Which planet has the most moons?'")
    _heading("Ask as OpenAI's clients do (base_url, api_key: the token)")
    asked = '{"messages": [{"role": "user", "content": "Which planet has the most moons?"}], "stream": true}'
    _line(f"{curl} -N {address}/v1/chat/completions -H 'Content-Type: application/json' -d '{asked}'")
    _heading("Read its messages")
    _line(f"{curl} {address}/conversations/{newest}/messages")
    _heading("Take in an official export")
    _line(f"{curl} {address}/import -F file=@{export_file}")
    _heading("Have a conversation as Markdown (or html, json)")
    _line(f"{curl} {address}/conversations/{newest}/export?format=markdown")
    _heading("Ctrl-C ends it; nothing is kept.")


def _show_simulation(base_url: str, chatgpt: SimulatedChatGPT) -> None:
    _heading("simulated ChatGPT")
    _field("base_url", base_url)
    for account in (chatgpt.alice, chatgpt.bob):
        _field(account.name, account.token())
    root = base_url.removesuffix("backend-api/")
    _field("faults", f"curl -s {root}  lists what can be turned")


def _heading(text: str) -> None:
    _console.print()
    _console.print(Text(text, style="bold"))


def _field(name: str, value: str) -> None:
    _console.print(Text(f"  {name}  ", style="dim"), Text(value), sep="", soft_wrap=True)


def _line(text: str) -> None:
    _console.print(Text(text), soft_wrap=True)
