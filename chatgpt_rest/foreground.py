# SPDX-License-Identifier: GPL-2.0-or-later
"""`server.py sync`: one pass while somebody watches, by the running server or, where none runs, by this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from chatgpt_rest.clock import Clock
from chatgpt_rest.config import TOKEN_FILE, TOKEN_VARIABLE, Config
from chatgpt_rest.context import AUTH
from chatgpt_rest.control import call_server, control_over
from chatgpt_rest.errors import MirrorError, StartError, Unavailable
from chatgpt_rest.reach import opened

_LOOKS_EVERY_SECONDS: Final = 0.25

_NO_TOKEN: Final = frozenset({"no_access_token", "access_token_refused", "access_token_expired"})
_WAITS: Final = {
    "rate_limit_exceeded": "the budget",
    "upstream_rate_limit": "ChatGPT's own limit to clear",
    "storage_full": "room on the disk",
    "storage_failed": "the disk",
}
"""What it waits for, by the reason; anything else is ChatGPT that fails."""

Call = Callable[[str, dict[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A pass under way, and how to learn how it stands."""

    call: Call
    outlook: dict[str, Any]
    """What there was to do before it began."""
    status: dict[str, Any]
    is_servers: bool


async def sync_now(
    config: Config, clock: Clock, console: Console, *, account: str | None, is_full: bool, waits: bool
) -> None:
    """Begin a pass and watch it to its end or, unless `waits`, until it has to wait. Cancelling ends the watching,
    and with it the pass where it is this process's own. Raises MirrorError where it is paused, or ChatGPT away.
    """
    async with _begun(config, clock, account=account, is_full=is_full) as begun:
        console.print(escape(_opening(begun.outlook)))
        this = begun.status["pass"] or begun.status["last_pass"]  # it may be over by now
        began_at = None if this is None else this["began_at"]
        try:
            status = await _watch(begun, console, began_at=began_at, waits=waits)
        except asyncio.CancelledError:
            console.print(f"interrupted; what came is kept; {_what_follows(begun)}")
            raise
        console.print(_cost(status, began_at=began_at))
        if _is_over(status, began_at):
            return
        if status["state"] != "running":
            raise MirrorError(f"{_obstacle(status)}; {_remedy(begun, status)}")
        console.print(f"{_obstacle(status)}; {_what_follows(begun)}")


@asynccontextmanager
async def _begun(config: Config, clock: Clock, *, account: str | None, is_full: bool) -> AsyncIterator[_Begun]:
    arguments = {"account": account, "is_full": is_full}
    try:
        outlook = await call_server(config.control_socket, "sync_outlook", arguments)
    except ConnectionError:
        outlook = None
    if outlook is not None:
        call: Call = partial(_call_running, config)
        yield _Begun(call, outlook, await call("start_sync", arguments), is_servers=True)
        return
    async with opened(config, clock) as app:
        proved = await app[AUTH].adopt_configured()
        if proved is None:
            raise Unavailable(
                f"no access token to go with: give it as {TOKEN_VARIABLE}, or as the file {TOKEN_FILE} in "
                "$CREDENTIALS_DIRECTORY, or start the server and give it that with `server.py token`",
                code="no_access_token",
            )
        call = control_over(app, clock).call
        arguments["account"] = account or proved
        outlook = await call("sync_outlook", arguments)
        yield _Begun(call, outlook, await call("start_sync", arguments), is_servers=False)


async def _call_running(config: Config, operation: str, arguments: dict[str, Any]) -> Any:
    try:
        return await call_server(config.control_socket, operation, arguments)
    except (ConnectionError, StartError):
        raise MirrorError("the server has stopped; what came is kept, and the next one goes on there") from None


async def _watch(begun: _Begun, console: Console, *, began_at: str | None, waits: bool) -> dict[str, Any]:
    """How it stands in the end, or where it has to wait."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("current", total=None, told="")
        while True:
            status: dict[str, Any] = await begun.call("sync_status", {"account": begun.status["account"]})
            _show(progress, bar, status)
            if _is_over(status, began_at) or status["reason"] in _NO_TOKEN:
                return status
            if status["reason"] is not None and not waits:
                return status
            await asyncio.sleep(_LOOKS_EVERY_SECONDS)


def _is_over(status: dict[str, Any], began_at: str | None) -> bool:
    return status["pass"] is None or status["pass"]["began_at"] != began_at


def _show(progress: Progress, bar: TaskID, status: dict[str, Any]) -> None:
    counts, this = status["conversations"], status["pass"] or status["last_pass"]
    told = f"{this['requests'] if this else 0} requests, {status['budget']['remaining']} left"
    if status["reason"] is not None:
        told += f", {_obstacle(status)}"
    progress.update(bar, completed=counts["current"], total=counts["known"], told=escape(told))


# --------------------------------------------------------------------------------------------------------------- words


def _opening(outlook: dict[str, Any]) -> str:
    stale = len(outlook["stale"]) + outlook["more"]
    return f"account {outlook['account']}: {stale} stale; {price(outlook['plan'])}"


def price(plan: dict[str, Any]) -> str:
    """What a plan costs, for a person."""
    number = plan["requests_needed"]
    words = f"{number} request{'s' * (number != 1)}"
    return words if plan["finishes_at"] is None else f"{words}; done about {_local(plan['finishes_at'])}"


def _cost(status: dict[str, Any], *, began_at: str | None) -> str:
    ours = [this for this in (status["pass"], status["last_pass"]) if this is not None and this["began_at"] == began_at]
    if not ours:
        return "nothing came of it; the log says why"
    this, budget = ours[0], status["budget"]
    until = "" if budget["resets_at"] is None else f" until {_local(budget['resets_at'])}"
    return (
        f"fetched {this['fetched']}, gone {this['gone']}, failed {this['failed']}, with {this['requests']} requests; "
        f"{budget['remaining']} left{until}"
    )


def _obstacle(status: dict[str, Any]) -> str:
    reason = status["reason"]
    if reason in _NO_TOKEN:
        return {
            "access_token_refused": "ChatGPT refused the access token",
            "access_token_expired": "the access token has expired",
        }.get(reason, "no access token is at hand")
    until = "" if status["resumes_at"] is None else f" until {_local(status['resumes_at'])}"
    return f"waits for {_WAITS.get(reason, f'ChatGPT, which fails ({reason}),')}{until}"


def _remedy(begun: _Begun, status: dict[str, Any]) -> str:
    if status["reason"] not in _NO_TOKEN:
        return _what_follows(begun)
    return "give a new one: server.py token" if begun.is_servers else f"give a new one, as {TOKEN_VARIABLE} for example"


def _what_follows(begun: _Begun) -> str:
    return "the running server goes on by itself" if begun.is_servers else "run this again to go on"


def _local(time: str) -> str:
    """A time of day where it is today's, by the clock on the wall."""
    moment, today = datetime.fromisoformat(time).astimezone(), datetime.now().astimezone().date()
    return moment.strftime("%H:%M" if moment.date() == today else "%Y-%m-%d %H:%M")
