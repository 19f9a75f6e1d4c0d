# SPDX-License-Identifier: GPL-2.0-or-later
"""What the owner may do, and the socket by which a command reaches the server that holds the mirror.

`control.sock` lies beside the database with mode 0600: whoever can open it is the owner. Where no server runs, a
command opens the mirror itself and does the same through the same class; one that takes long serves the socket, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from chatgpt_rest import __version__
from chatgpt_rest.archive.intake import Intake, take_in
from chatgpt_rest.archive.ledger import Ledger
from chatgpt_rest.archive.owner import owner_of
from chatgpt_rest.archive.reading import bodies
from chatgpt_rest.archive.wire import framed
from chatgpt_rest.auth import Auth, looks_like_credential
from chatgpt_rest.chatgpt_json import is_id
from chatgpt_rest.claims import EXPIRES_SOON
from chatgpt_rest.clock import DAY, Clock, iso
from chatgpt_rest.config import TOKEN_FILE, TOKEN_VARIABLE
from chatgpt_rest.configured import ConfiguredSecret
from chatgpt_rest.context import AUTH, CONFIG, MIRROR_OF_ALL, SYNC
from chatgpt_rest.errors import BadRequest, Conflict, MirrorError, NotFound, StartError, Unavailable
from chatgpt_rest.mirror import Mirror
from chatgpt_rest.model import Secret
from chatgpt_rest.refusing import error_response
from chatgpt_rest.sync import Sync
from chatgpt_rest.sync_status import outlook_json, read_outlook, read_status, status_json

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_FIRST_ACCOUNT: Final = "me"
_TIMEOUT_SECONDS: Final = 120.0
_IMPORT: Final = "/import"

TOKEN_WAYS: Final = (
    f"as {TOKEN_VARIABLE}, or as the file {TOKEN_FILE} in $CREDENTIALS_DIRECTORY, "
    "or start the server and give it that with `server.py token`"
)
"""How a command that runs without a server comes by an access token."""

Operation = Callable[..., Awaitable[Any]]

log = logging.getLogger(__name__)


class Control:
    """The owner's operations. Arguments and results are plain JSON values. `is_server` says that this process stays:
    a command does not, and what it is given ends with it. `api_key` is where an API's key comes from, None with
    ChatGPT. An API does not tell who has an account: a local key for one that is not there begins it.
    """

    def __init__(
        self,
        mirror: Mirror,
        auth: Auth,
        sync: Sync,
        clock: Clock,
        *,
        keep_deleted_days: int,
        is_server: bool,
        api_key: ConfiguredSecret | None,
    ) -> None:
        self._mirror = mirror
        self._auth = auth
        self._sync = sync
        self._clock = clock
        self._keep_deleted = keep_deleted_days * DAY
        self._is_server = is_server
        self._api_key = api_key
        self.was_joined = False
        """Whether somebody watches a pass that somebody else began."""
        self._operations: dict[str, Operation] = {
            "create_key": self.create_key,
            "list_keys": self.list_keys,
            "revoke_key": self.revoke_key,
            "list_accounts": self.list_accounts,
            "name_account": self.name_account,
            "give_token": self.give_token,
            "report": self.report,
            "list_deleted": self.list_deleted,
            "undelete": self.undelete,
            "start_sync": self.start_sync,
            "sync_status": self.sync_status,
            "sync_outlook": self.sync_outlook,
            "open_import": self.open_import,
        }

    async def call(self, operation: str, arguments: dict[str, Any]) -> Any:
        """Do what is asked for by name. Raises MirrorError."""
        if operation not in self._operations:
            raise BadRequest("there is no such operation; is the server another version than this command?")
        return await self._operations[operation](**arguments)

    async def create_key(self, name: str, account: str | None) -> dict[str, str]:
        """A new local API key of an account, of the only one where none is named. It is in this answer and nowhere
        else.
        """
        _check_name(name)
        account_id = await self._account_of_key(account)
        key, digest = self._auth.create_key()
        await self._mirror.accounts.create_key(account_id, digest, name=name)
        return {"key": key.reveal(), "name": name, "account": account_id}

    async def list_keys(self) -> list[dict[str, Any]]:
        """Every local API key, without the key itself."""
        return [
            {"name": key.name, "account": key.account, "created_at": iso(key.created_at)}
            for key in await self._mirror.accounts.keys()
        ]

    async def revoke_key(self, name: str) -> None:
        """From now on this key opens nothing."""
        self._auth.forget_key(await self._mirror.accounts.revoke_key(name))

    async def list_accounts(self) -> list[dict[str, Any]]:
        """Every account with what it holds and when its access token ends."""
        return [
            {
                "id": account.id,
                "name": account.name,
                "email": account.email,
                "conversations": account.conversations,
                "token_expires_at": await self._token_expiry(account.id),
            }
            for account in await self._mirror.accounts.all()
        ]

    async def name_account(self, account: str, name: str) -> None:
        """Give an account a name that the command line understands. Raises Conflict where it means another one."""
        _check_name(name)
        if name in {known.id for known in await self._mirror.accounts.all()}:
            raise Conflict(f"{name} is the id of an account")
        await self._mirror.accounts.name(await self._mirror.accounts.resolve(account), name)

    async def give_token(self, token: str) -> dict[str, Any]:
        """Prove an access token and hold it, in memory only, for what the server does by itself."""
        if not self._is_server:
            raise Unavailable(f"no server is running: process {os.getpid()} is a command, and would forget the token")
        account = await self._auth.adopt(Secret(token))
        return {"account": account, "expires_at": await self._token_expiry(account)}

    async def report(self) -> dict[str, Any]:
        """What `check` tells of the mirror and its accounts."""
        now = self._clock.now()
        accounts = []
        for account in await self._mirror.accounts.all():
            budget = await self._mirror.requests.budget(account.id)
            expiry = await self._mirror.accounts.token_expiry(account.id)
            accounts.append(
                {
                    "id": account.id,
                    "name": account.name,
                    "conversations": account.conversations,
                    "remaining": budget.remaining,
                    "capacity": budget.capacity if budget.is_limited else None,
                    "blocked_until": iso(budget.blocked_until) if budget.is_blocked and budget.blocked_until else None,
                    "token_expires_at": None if expiry is None else iso(expiry),
                    "is_token_expired": expiry is not None and expiry <= now,
                    "expires_soon": expiry is not None and now < expiry <= now + EXPIRES_SOON,
                    "sync": await self.sync_status(account.id),
                }
            )
        return {
            "process": os.getpid(),
            "is_server": self._is_server,
            "has_api_key": self._api_key is not None and self._api_key.read() is not None,
            "faults": await self._mirror.faults(),
            "accounts": accounts,
        }

    async def list_deleted(self, account: str | None) -> list[dict[str, Any]]:
        """What can be brought back, the newest deletion first, and until when."""
        mirror = self._mirror.of(await self._mirror.accounts.resolve(account))
        return [
            {
                "id": each.id,
                "title": each.title,
                "deleted_at": iso(each.deleted_at),
                "until": iso(each.deleted_at + self._keep_deleted),
            }
            for each in await mirror.deletions.buried()
        ]

    async def undelete(self, account: str | None, ids: list[str], *, everything: bool) -> list[dict[str, Any]]:
        """Bring these conversations back, or everything that can be: all of it or nothing. Raises NotFound."""
        mirror = self._mirror.of(await self._mirror.accounts.resolve(account))
        if not all(is_id(each) for each in ids):
            raise BadRequest("this is no id of a conversation")
        found = await (
            mirror.deletions.undelete_all() if everything else mirror.deletions.undelete(*dict.fromkeys(ids))
        )
        return [{"id": each.id, "title": each.title, "has_content": each.has_content} for each in found]

    async def start_sync(self, account: str | None, *, is_full: bool) -> dict[str, Any]:
        """Begin a pass now, or join the one under way, and tell how things stand and stood: `joined` is what that one
        had spent. Raises Unavailable where no token is at hand.
        """
        account_id = await self._resolve(account)
        before = await self.sync_status(account_id)
        try:
            await self._sync.start(account_id, is_full=is_full)
        except Unavailable as error:
            if self._is_server or error.code != "no_access_token":
                raise
            text = f"no access token of account {account_id} is at hand; give one {TOKEN_WAYS}"
            raise Unavailable(text, code=error.code) from None
        self.was_joined = self.was_joined or before["pass"] is not None
        return {
            "status": await self.sync_status(account_id),
            "joined": before["pass"],
            "is_server": self._is_server,
        }

    async def sync_status(self, account: str) -> dict[str, Any]:
        """What `GET /sync` tells of an account, by its id: who watches asks often, and names take a search."""
        status = await read_status(account, mirror=self._mirror, sync=self._sync, tokens=self._auth)
        return status_json(status)

    async def sync_outlook(self, account: str | None, *, is_full: bool) -> dict[str, Any]:
        """What a pass would do now, and what it would cost."""
        account_id = await self._resolve(account)
        outlook = await read_outlook(account_id, mirror=self._mirror, sync=self._sync, is_full=is_full)
        return outlook_json(outlook)

    async def open_import(
        self, version: str, named: str | None, email: str | None, wanted: str | None, *, dry_run: bool
    ) -> str:
        """The account that an export goes to, which is made where there is none: `named` and `email` are user.json's,
        `wanted` is what a person gave. Raises Conflict and NotFound where it cannot be told, Conflict where the command
        is of another version than this process.
        """
        if version != __version__:
            raise Conflict(
                f"process {os.getpid()}, which has the mirror, is version {__version__}, this command {version}; "
                "start the server again"
            )
        account_id = await owner_of(self._mirror.accounts, named=named, wanted=wanted)
        if not dry_run:
            await self._mirror.accounts.ensure(account_id, email=email)
        return account_id

    async def take_import(self, account: str, frames: AsyncIterator[bytes], *, dry_run: bool) -> Ledger:
        """Take in what the reader of an export says, for an account that `open_import` has told. What ends it too early
        stands in the ledger.
        """
        intake = Intake(self._mirror.of(account), self._mirror.files, clock=self._clock, dry_run=dry_run)
        ledger = await take_in(intake, frames)
        log.info(
            "imported account=%s conversations=%d complete=%s", account, ledger.conversations.read, ledger.is_complete
        )
        return ledger

    async def _resolve(self, account: str | None) -> str:
        if account is None and not await self._mirror.accounts.all():
            raise NotFound(
                "account",
                text="there is no account yet; one appears when its access token is first used, "
                "by `server.py sync` for example",
            )
        return await self._mirror.accounts.resolve(account)

    async def _account_of_key(self, account: str | None) -> str:
        known = await self._mirror.accounts.all()
        wanted = account if account is not None or known else _FIRST_ACCOUNT
        is_new = wanted is not None and not any(wanted in {each.id, each.name} for each in known)
        if self._api_key is None or wanted is None or not is_new:
            return await self._mirror.accounts.resolve(account)
        if not is_id(wanted) or looks_like_credential(wanted):
            raise BadRequest("the id of an account has letters, digits, - and _, at most 128 of them")
        await self._mirror.accounts.ensure(wanted, email=None)
        log.info("began an account account=%s", wanted)
        return wanted

    async def _token_expiry(self, account: str) -> str | None:
        expiry = await self._mirror.accounts.token_expiry(account)
        return None if expiry is None else iso(expiry)


def control_over(app: web.Application, clock: Clock, *, is_server: bool = True) -> Control:
    """The owner's operations over an application that is open."""
    config = app[CONFIG]
    return Control(
        app[MIRROR_OF_ALL],
        app[AUTH],
        app[SYNC],
        clock,
        keep_deleted_days=config.mirror.keep_deleted_days,
        is_server=is_server,
        api_key=None if config.upstream.keeps_conversations else ConfiguredSecret(config.api_key, config.api_key_file),
    )


@asynccontextmanager
async def serve_control(control: Control, path: Path) -> AsyncIterator[None]:
    """Listen on the socket. One that a dead process left is replaced: the lock is ours, so nobody else listens
    there.
    """
    app = web.Application(client_max_size=1024 * 1024)

    async def handle(request: web.Request) -> web.Response:
        try:
            result = await control.call(request.match_info["operation"], await request.json())
        except MirrorError as error:
            return error_response(400, error.text, error.code)
        return web.json_response({"result": result})

    async def take_import(request: web.Request) -> web.Response:
        account, dry_run = request.query["account"], "dry_run" in request.query
        ledger = await control.take_import(account, _frames(request), dry_run=dry_run)
        return web.json_response({"result": ledger.as_json()})

    app.router.add_post(_IMPORT, take_import)
    app.router.add_post("/{operation}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            _remove(path)
            # Made with its final mode: between a bind and a chmod anyone could have come in.
            before = os.umask(0o177)
            try:
                await web.UnixSite(runner, str(path)).start()
            finally:
                os.umask(before)
        except OSError as error:
            raise StartError(
                f"{path}: the control socket cannot be opened: {error.strerror or error}; "
                "name another place with [mirror] path"
            ) from error
        yield
    finally:
        await runner.cleanup()
        with suppress(OSError):
            _remove(path)


async def call_server(path: Path, operation: str, arguments: dict[str, Any]) -> Any:
    """Have the running server do it. Raises ConnectionError where none listens, MirrorError where it says no."""
    return await _post(path, f"/{operation}", timeout_seconds=_TIMEOUT_SECONDS, json=arguments)


async def send_import(path: Path, account: str, frames: AsyncIterator[bytes], *, dry_run: bool) -> Ledger:
    """Pass on to the running server what the reader of an export says, no faster than that takes it. Raises as
    `call_server` does.
    """

    async def content() -> AsyncIterator[bytes]:
        async for body in frames:
            yield framed(body)

    query = {"account": account, **({"dry_run": ""} if dry_run else {})}
    return Ledger.from_json(await _post(path, _IMPORT, timeout_seconds=None, params=query, data=content()))


async def _post(path: Path, target: str, *, timeout_seconds: float | None, **what: Any) -> Any:
    if not _is_socket(path):
        raise ConnectionError
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)), timeout=timeout) as session:
        try:
            async with session.post(f"http://control{target}", **what) as response:
                answer = await response.json()
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, PermissionError):
                raise StartError(f"{path} belongs to another user; run this as the user of the server") from None
            raise ConnectionError from None
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise StartError(f"the running server did not answer: {type(error).__name__}") from None
    if response.status != 200:
        raise MirrorError(str(answer.get("error")), code=str(answer.get("code")))
    return answer["result"]


async def _frames(request: web.Request) -> AsyncIterator[bytes]:
    try:
        async for body in bodies(request.content):
            yield body
    except (asyncio.IncompleteReadError, ConnectionError, web.RequestPayloadError):
        raise MirrorError("the command that read the export has ended", code="reading_ended") from None


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise BadRequest("a name has letters, digits, dots, @, - and _, at most 64 of them, and starts with one")
