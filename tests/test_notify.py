# SPDX-License-Identifier: GPL-2.0-or-later
"""What the service manager hears, read from a real datagram socket in its place."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from typing import TYPE_CHECKING

import pytest

from chatgpt_rest.notify import Notifier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

PATIENCE_SECONDS = 10


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end of the notification socket, at a path."""
    with _listening(str(tmp_path / "notify")) as listening:
        yield listening


def test_ready_is_one_message_with_its_status(manager: socket.socket) -> None:
    """READY and the status line arrive together, so that nobody sees the one without the other."""
    _notifier(manager).ready("answers on 127.0.0.1:8000")
    assert _heard(manager) == "READY=1\nSTATUS=answers on 127.0.0.1:8000"


def test_a_status_is_one_line(manager: socket.socket) -> None:
    """A line break in a status cannot smuggle in another assignment."""
    _notifier(manager).status("syncing\nMAINPID=1\r\n 312 stale")
    assert _heard(manager) == "STATUS=syncing MAINPID=1 312 stale"


def test_a_status_that_is_not_unicode_still_arrives(manager: socket.socket) -> None:
    """A lone surrogate is replaced instead of raising."""
    _notifier(manager).status("caf\udce9")
    assert _heard(manager) == "STATUS=caf?"


def test_stopping_is_announced(manager: socket.socket) -> None:
    """The manager learns that the drain has begun."""
    _notifier(manager).stopping()
    assert _heard(manager) == "STOPPING=1"


def test_an_abstract_address_is_understood() -> None:
    """An address with a leading @ is a name in the abstract namespace, not a path."""
    name = f"chatgpt-rest-test-{os.getpid()}"
    with _listening(f"\0{name}") as manager:
        Notifier.from_environment({"NOTIFY_SOCKET": f"@{name}"}).stopping()
        assert _heard(manager) == "STOPPING=1"


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "relative"])
def test_without_a_usable_socket_nothing_happens(address: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """Outside systemd every call is silent."""
    notifier = Notifier(address, watchdog_seconds=1)
    notifier.ready("ready")
    notifier.status("status")
    notifier.stopping()
    assert notifier.watchdog_seconds is None
    assert not caplog.records


def test_a_vanished_socket_is_logged_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The server goes on when its manager has gone."""
    Notifier(str(tmp_path / "gone")).ready("ready")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "message=READY=1" in caplog.text


def test_a_manager_that_reads_nothing_is_survived(manager: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    """A full socket costs a bounded wait and a warning, not the server."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as flood, contextlib.suppress(BlockingIOError):
        flood.setblocking(False)
        while True:
            flood.sendto(b"STATUS=flood", manager.getsockname())
    _notifier(manager).stopping()
    assert "could not notify the service manager message=STOPPING=1" in caplog.text


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "nobody"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_pinged_twice_in_its_time(environ: dict[str, str], seconds: float | None) -> None:
    """The interval is half of what systemd allows this process, and none where it allows nothing sensible."""
    assert Notifier.from_environment({"NOTIFY_SOCKET": "/run/notify", **environ}).watchdog_seconds == seconds


async def test_the_watchdog_pings_until_cancelled(manager: socket.socket) -> None:
    """Pings follow one another for as long as the task lives."""
    manager.setblocking(False)
    async with _watchdog(_notifier(manager, watchdog_microseconds=2_000)), asyncio.timeout(PATIENCE_SECONDS):
        loop = asyncio.get_running_loop()
        assert [await loop.sock_recv(manager, 64) for _ in range(3)] == [b"WATCHDOG=1"] * 3


async def test_a_blocked_loop_misses_its_pings(manager: socket.socket) -> None:
    """Pings come from the event loop itself: while it is stuck there are none, however many were due."""
    manager.setblocking(False)
    async with _watchdog(_notifier(manager, watchdog_microseconds=2_000)), asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.get_running_loop().sock_recv(manager, 64)
        while select.select([manager], [], [], 0)[0]:
            manager.recv(64)
        heard_while_blocked, _, _ = select.select([manager], [], [], 0.1)
        assert not heard_while_blocked


async def test_no_watchdog_means_no_loop() -> None:
    """Where nobody expects pings the task ends by itself."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await Notifier.from_environment({}).watchdog()


@contextlib.contextmanager
def _listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(PATIENCE_SECONDS)
        yield listening


@contextlib.asynccontextmanager
async def _watchdog(notifier: Notifier) -> AsyncIterator[None]:
    task = asyncio.create_task(notifier.watchdog())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _notifier(manager: socket.socket, *, watchdog_microseconds: int = 0) -> Notifier:
    return Notifier.from_environment(
        {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": str(watchdog_microseconds)},
    )


def _heard(manager: socket.socket) -> str:
    return manager.recv(4096).decode()
