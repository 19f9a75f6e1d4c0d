# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs that are measured, each a process of its own. They have one core, and all that puts them under load has
the others.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
MEASURED: Final = frozenset(sorted(os.sched_getaffinity(0))[:1])
"""The core of what is measured."""
LOADING: Final = frozenset(os.sched_getaffinity(0)) - MEASURED or MEASURED
"""The cores of everything else."""

_TICKS: Final = os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(folder: Path, base_url: str, environ: Mapping[str, str] | None = None) -> Iterator[tuple[int, int]]:
    """This server over the mirror in `folder`, by port and pid. It does not sync, unless `environ` says so."""
    port = _free_port()
    told = {
        "CHATGPT_REST_SERVER__PORT": str(port),
        "CHATGPT_REST_MIRROR__PATH": str(folder / "mirror.sqlite"),
        "CHATGPT_REST_UPSTREAM__BASE_URL": base_url,
        "CHATGPT_REST_SYNC__ENABLED": "false",
        "CHATGPT_REST_LOG__LEVEL": "WARNING",
        **(environ or {}),
    }
    with _process([str(ROOT / "server.py")], told, port=port) as pid:
        yield port, pid


@contextmanager
def serving_bare(file: Path) -> Iterator[tuple[int, int]]:
    """A server that answers everything with the bytes of a file, by port and pid."""
    port = _free_port()
    with _process(["-m", "bench.bare", str(file), str(port)], {}, port=port) as pid:
        yield port, pid


@contextmanager
def serving_upstream() -> Iterator[str]:
    """The account of `bench.upstream`, by the address of its ChatGPT."""
    port = _free_port()
    with _process(["-m", "bench.upstream", str(port)], {}, port=port, cores=LOADING):
        yield f"http://127.0.0.1:{port}/backend-api/"


@contextmanager
def serving_sender() -> Iterator[str]:
    """The prepared answers of `bench.sender`, by the address of their ChatGPT."""
    port = _free_port()
    with _process(["-m", "bench.sender", str(port)], {}, port=port, cores=LOADING):
        yield f"http://127.0.0.1:{port}/backend-api/"


@contextmanager
def serving_pass_through(base_url: str) -> Iterator[tuple[int, int]]:
    """A server that passes the answers of `base_url` on as they are, by port and pid."""
    port = _free_port()
    with _process(["-m", "bench.pass_through", base_url, str(port)], {}, port=port) as pid:
        yield port, pid


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_bytes(pid: int) -> int:
    """The memory that a process has now."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def peak_memory_bytes(pid: int) -> int:
    """The most memory that a process has had at once."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@contextmanager
def _process(arguments: list[str], environ: dict[str, str], *, port: int, cores: Set[int] = MEASURED) -> Iterator[int]:
    """A server on these cores, up as the context is entered."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env={**os.environ, **environ})
    try:
        os.sched_setaffinity(process.pid, cores)
        _wait_for(port, process)
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait for the first answer, at most 20 seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                if connection.recv(9) == b"HTTP/1.1 ":
                    return
        except OSError:
            time.sleep(0.005)
    raise RuntimeError(f"nothing answers on port {port}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
