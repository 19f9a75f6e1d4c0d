# SPDX-License-Identifier: GPL-2.0-or-later
"""`server.py sync`: one pass while somebody watches, by the process that has the mirror or, where there is none, by
this one.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from chatgpt_rest.auth import Auth
from chatgpt_rest.clock import Clock
from chatgpt_rest.config import Config
from chatgpt_rest.context import AUTH, SYNC
from chatgpt_rest.control import TOKEN_WAYS, Control, call_server, control_over, serve_control
from chatgpt_rest.errors import MirrorError, StartError, Unauthorized, Unavailable
from chatgpt_rest.reach import opened
from chatgpt_rest.sync_status import STORAGE_CODES, TOKEN_CODES, counted

_LOOKS_EVERY_SECONDS: Final = 1.0
_STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_COUNTS: Final = ("requests", "fetched", "gone", "failed")
_WAITS: Final = {
    "rate_limit_exceeded": "the budget",
    "upstream_rate_limit": "ChatGPT's own limit to clear",
    "storage_full": "room on the disk",
    "storage_failed": "the disk",
}
"""What it waits for, by the reason; anything else is ChatGPT that fails."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A pass under way, and how to learn how it stands."""

    config: Config
    own: Control | None
    """This process's; None where another one has the mirror."""
    outlook: dict[str, Any]
    """What there was to do before it began."""
    answer: dict[str, Any]
    """What `start_sync` has answered."""

    @property
    def is_servers(self) -> bool:
        return bool(self.answer["is_server"])

    @property
    def began_at(self) -> str | None:
        """By this the pass is known: another one may have begun since."""
        status = self.answer["status"]
        this = status["pass"] or status["last_pass"]  # it may be over by now
        return None if this is None else this["began_at"]

    @property
    def joined(self) -> dict[str, Any] | None:
        """What it had spent when this command joined it; None where it began with this."""
        before: dict[str, Any] | None = self.answer["joined"]
        return before if before is not None and before["began_at"] == self.began_at else None

    async def look(self) -> dict[str, Any]:
        """How it stands now."""
        account = self.answer["status"]["account"]
        if self.own is not None:
            return await self.own.sync_status(account)
        try:
            status: dict[str, Any] = await call_server(self.config.control_socket, "sync_status", {"account": account})
        except (ConnectionError, StartError):
            ended = "the server has stopped; what came is kept, and the next one goes on there"
            if not self.is_servers:
                ended = "the process that did it has ended; what came is kept; run this again to go on"
            raise MirrorError(ended) from None
        return status

    def is_over(self, status: dict[str, Any]) -> bool:
        return status["pass"] is None or status["pass"]["began_at"] != self.began_at

    def spent(self, status: dict[str, Any]) -> dict[str, int] | None:
        """Its counts since this command has watched it; None where nothing is known of it any more."""
        before = self.joined or {}
        for this in (status["pass"], status["last_pass"]):
            if this is not None and this["began_at"] == self.began_at:
                return {name: this[name] - before.get(name, 0) for name in _COUNTS}
        return None


async def run_stoppable(work: Coroutine[Any, Any, None]) -> signal.Signals | None:
    """Do this to its end or until a signal cancels it, and answer that signal."""
    caught: list[signal.Signals] = []
    task = asyncio.create_task(work)

    def stop(number: signal.Signals) -> None:
        caught.append(number)
        task.cancel()

    for number in _STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await task
    except (asyncio.CancelledError, OSError):  # a terminal that was closed takes no last words
        if not caught:
            raise
        return caught[0]
    return None


async def sync_now(
    config: Config, clock: Clock, console: Console, *, account: str | None, is_full: bool, waits: bool
) -> None:
    """Begin a pass, or join the one under way, and watch it to its end or, unless `waits`, until it has to wait.
    Cancelling ends the watching, and with it the pass where it is this process's own. Raises MirrorError where it is
    paused, or ChatGPT away.
    """
    async with _begun(config, clock, account=account, is_full=is_full) as begun:
        console.print(escape(_opening(begun)))
        try:
            status = await _watch(begun, console, waits=waits)
        except asyncio.CancelledError:
            console.print(f"interrupted; what came is kept; {_what_follows(begun)}")
            raise
        spent = begun.spent(status)
        console.print(_cost(spent, status["budget"]))
        if spent is not None and spent["failed"] and status["last_error"] is not None:
            console.print(escape(_failure(begun, status)))
        if begun.own is not None and begun.own.was_joined:
            await asyncio.sleep(2 * _LOOKS_EVERY_SECONDS)  # who joined it looks once more
        if begun.is_over(status):
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
        answer = await call_server(config.control_socket, "start_sync", arguments)
        yield _Begun(config, None, outlook, answer)
        return
    async with opened(config, clock) as app:
        app[SYNC].require_upstream()
        proved = await _prove_configured(app[AUTH])
        own = control_over(app, clock, is_server=False)
        async with serve_control(own, config.control_socket):
            outlook = await own.sync_outlook(account or proved, is_full=is_full)
            yield _Begun(config, own, outlook, await own.start_sync(account or proved, is_full=is_full))


async def _prove_configured(auth: Auth) -> str:
    try:
        account = await auth.adopt_configured()
    except Unauthorized as error:
        raise Unauthorized(f"{error.text}; give a new one {TOKEN_WAYS}", code=error.code) from None
    if account is None:
        raise Unavailable(f"no access token to go with: give it {TOKEN_WAYS}", code="no_access_token")
    return account


async def _watch(begun: _Begun, console: Console, *, waits: bool) -> dict[str, Any]:
    """How it stands in the end, or where it has to wait."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("current", total=None, told="")
        while True:
            status = await begun.look()
            _show(progress, bar, begun, status)
            if begun.is_over(status) or status["reason"] in TOKEN_CODES:
                return status
            if status["reason"] is not None and not waits:
                return status
            await asyncio.sleep(_LOOKS_EVERY_SECONDS)


def _show(progress: Progress, bar: TaskID, begun: _Begun, status: dict[str, Any]) -> None:
    counts, spent = status["conversations"], begun.spent(status)
    told = f"{counted(spent['requests'] if spent else 0, 'request')}, {_left(status['budget'])}"
    if status["reason"] is not None:
        told += f", {_obstacle(status)}"
    progress.update(bar, completed=counts["current"], total=counts["known"], told=escape(told))


# --------------------------------------------------------------------------------------------------------------- words


def price(plan: dict[str, Any]) -> str:
    """What a plan costs, for a person."""
    words = counted(plan["requests_needed"], "request")
    return words if plan["finishes_at"] is None else f"{words}; done about {_local(plan['finishes_at'])}"


def _opening(begun: _Begun) -> str:
    outlook = begun.outlook
    aside = f", {outlook['set_aside']} set aside" if outlook["set_aside"] else ""
    words = f"account {outlook['account']}: {outlook['stale']} stale{aside}; {price(outlook['plan'])}"
    if begun.joined is not None:
        words += f"; joins the pass that began at {_local(begun.joined['began_at'])}"
    return words


def _cost(spent: dict[str, int] | None, budget: dict[str, Any]) -> str:
    if spent is None:
        return "nothing came of it; the log says why"
    is_kept = 0 < budget["remaining"] <= budget["reserve"]
    until = "" if is_kept or budget["resets_at"] is None else f" until {_local(budget['resets_at'])}"
    return (
        f"fetched {spent['fetched']}, gone {spent['gone']}, failed {spent['failed']}, "
        f"with {counted(spent['requests'], 'request')}; {_left(budget)}{until}"
    )


def _left(budget: dict[str, Any]) -> str:
    number = budget["remaining"]
    return f"{number} kept for you" if 0 < number <= budget["reserve"] else f"{number} left"


def _failure(begun: _Begun, status: dict[str, Any]) -> str:
    """What went wrong last, what was given up for now, and what becomes of the rest."""
    error, counts = status["last_error"], status["conversations"]
    words = [f"what failed last: {error['error']} ({error['code']})"]
    if error["code"] == "list_incomplete":
        words.append("nothing is taken for deleted by it; to look again: server.py sync --full")
    if counts["set_aside"]:
        words.append(f"{counted(counts['set_aside'], 'conversation')} set aside; to try again: server.py sync --full")
    if counts["stale"] and begun.is_over(status):
        words.append(f"{counts['stale']} still stale; {_what_follows(begun)}")
    return "; ".join(words)


def _obstacle(status: dict[str, Any]) -> str:
    reason = status["reason"]
    if reason in TOKEN_CODES:
        return {
            "access_token_refused": "ChatGPT refused the access token",
            "access_token_expired": "the access token has expired",
        }.get(reason, "no access token is at hand")
    until = "" if status["resumes_at"] is None else f" until {_local(status['resumes_at'])}"
    return f"waits for {_WAITS.get(reason, f'ChatGPT, which fails ({reason}),')}{until}"


def _remedy(begun: _Begun, status: dict[str, Any]) -> str:
    if status["reason"] in STORAGE_CODES:
        return f"see to the disk that holds the mirror; {_what_follows(begun)}"
    if status["reason"] not in TOKEN_CODES:
        return _what_follows(begun)
    return "give a new one: server.py token" if begun.is_servers else f"give a new one {TOKEN_WAYS}"


def _what_follows(begun: _Begun) -> str:
    return "the running server goes on by itself" if begun.is_servers else "run this again to go on"


def _local(time: str) -> str:
    """A time of day where it is today's, by the clock on the wall."""
    moment, today = datetime.fromisoformat(time).astimezone(), datetime.now().astimezone().date()
    return moment.strftime("%H:%M" if moment.date() == today else "%Y-%m-%d %H:%M")
