# SPDX-License-Identifier: GPL-2.0-or-later
"""Telling systemd how the server is doing: ready, alive, stopping (the protocol of sd_notify(3), no dependency)."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

SEND_TIMEOUT_SECONDS: Final = 1.0


class Notifier:
    """Sends to the service manager where there is one and does nothing where there is none; never raises.

    `address` is a path, or a name in the abstract namespace written with a leading `@`; systemd's other kinds (vsock,
    for whole virtual machines) count as none. `watchdog_seconds` is how often `watchdog` pings, None for never.
    """

    def __init__(self, address: str | None, *, watchdog_seconds: float | None = None) -> None:
        self._address = _socket_address(address)
        self.watchdog_seconds = watchdog_seconds if self._address is not None else None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """The notifier that systemd described in `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`."""
        return cls(environ.get("NOTIFY_SOCKET"), watchdog_seconds=_watchdog_seconds(environ))

    def ready(self, status: str) -> None:
        """The server answers requests from now on; units ordered after it may start."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(_status(text))

    def stopping(self) -> None:
        """The server has begun to drain."""
        self._send("STOPPING=1")

    async def watchdog(self) -> None:
        """Ping until cancelled, or return at once if nobody expects pings.

        It runs in the event loop and not in a thread, so that a blocked loop misses its pings and systemd restarts it.
        """
        if self.watchdog_seconds is None:
            return
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_seconds)

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return
        message = "\n".join(assignments).encode("utf-8", "replace")
        try:
            # Opened for each message: there are few, and a manager that was replaced meanwhile is found again.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                # Bounded: a manager that reads nothing must not hold the loop. Not zero: READY should get through.
                manager.settimeout(SEND_TIMEOUT_SECONDS)
                manager.sendto(message, self._address)
        except OSError as error:
            log.warning("could not notify the service manager message=%s error=%s", assignments[0], error)


def _socket_address(address: str | None) -> bytes | None:
    if address is None or not address.startswith(("/", "@")):
        return None
    name = os.fsencode(address)
    return b"\0" + name[1:] if address.startswith("@") else name


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Half of what systemd allows between two pings, None unless it expects them from this very process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not (microseconds.isascii() and microseconds.isdigit()) or int(microseconds) == 0:
        return None
    return int(microseconds) / 1_000_000 / 2


def _status(text: str) -> str:
    # A line of its own would be read as another assignment.
    return f"STATUS={' '.join(text.split())}"
