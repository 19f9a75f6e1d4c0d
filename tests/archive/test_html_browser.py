# SPDX-License-Identifier: GPL-2.0-or-later
"""An exported page in a real browser: it opens and asks nobody for anything. Skipped where Chromium is missing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from chatgpt_rest.archive import html
from tests.rich import rich_conversation, rich_files
from tests.shapes import conversation, message

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=2000 --dump-dom"
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """The address of a server on this machine, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Not to standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def opened(page: bytes, folder: Path) -> str:
    """What a browser makes of a page that it opens from the disk."""
    path = folder / "page.html"
    path.write_bytes(page)
    command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    """Whatever addresses a conversation holds, opening it reaches none of them, and no script of it runs."""
    with listening() as (address, asked):
        hostile = (
            f"![x]({address}/picture) <img src={address}/tag> <script src={address}/script></script> "
            f"<link rel=stylesheet href={address}/style> $\\text{{<img src={address}/formula>}}$ "
            f"<style>@import url({address}/import)</style> <script>document.title = 'run'</script> [a]({address}/link)"
        )
        tree = conversation(message(hostile), message(hostile, role="user"), title=hostile)
        shown = opened(html.render(tree, attached={}), tmp_path)
        assert "<title>![x]" in shown
        assert asked == []


def test_a_page_that_does_ask_is_noticed(tmp_path: Path) -> None:
    """The proof above would see a request: this page makes one."""
    with listening() as (address, asked):
        opened(f"<img src={address}/picture>".encode(), tmp_path)
        assert asked == ["/picture"]


def test_a_page_is_laid_out(tmp_path: Path) -> None:
    """The browser reads the page as it was meant: messages, formulas and pictures stand where they should."""
    shown = opened(html.render(rich_conversation(), attached=rich_files(tmp_path)), tmp_path)
    assert shown.count("<article") == 7
    assert "<math" in shown
    assert 'src="data:image/png;base64,' in shown
