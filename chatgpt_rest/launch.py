# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting a process: its log, its event loop, its configuration, and the server on top."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")


def serve(config_file: Path | None, options: Mapping[str, str]) -> None:
    """Run the server until it is told to stop. `options` override the environment, as `{variable: value}`."""
    from chatgpt_rest import app
    from chatgpt_rest.clock import SystemClock
    from chatgpt_rest.config import load_config

    config = load_config(config_file, {**os.environ, **options})
    start_logging(config.log.level)
    run(app.serve(config, clock=SystemClock()))


def start_logging(level: str) -> None:
    """Log to standard error, a line an event. httpx would log addresses with ids in them, aiosqlite every statement
    with what it writes.
    """
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("httpx", "httpcore", "asyncio", "aiosqlite"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
