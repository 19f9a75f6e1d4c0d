# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulated ChatGPT as a whole: accounts, faults, the log of requests, and the application that serves them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from . import backend, knobs, library, limits
from .accounts import Account, Accounts
from .delivery import Delivery, reset
from .faults import Fault, Faults
from .generation import converse
from .keys import ACCOUNT, ACCOUNTS, DELIVERY, FAULTS, RECEIVED, REQUESTS, SETTINGS, Settings
from .refusals import Refusal
from .requests import BASE_PATH, ReceivedRequest
from .tokens import Tokens

LARGEST_BODY_BYTES = 64 * 1024 * 1024
SHUTDOWN_SECONDS = 0.05


class SimulatedChatGPT:
    """A ChatGPT of one's own, on loopback, which remembers what it was asked and fails on demand.

    `alice` has a library of believable conversations and `bob` a few of his own, unless `conversations` is false.
    `now` gives epoch seconds; tokens expire by it and requests arrive by it.
    """

    def __init__(
        self, *, now: Callable[[], float] = time.time, conversations: bool = True, event_pause_seconds: float = 0.0
    ) -> None:
        self.requests: list[ReceivedRequest] = []
        """Every request received below /backend-api/, or anywhere else but /simulated/, oldest first."""
        self.faults = Faults()
        self.settings = Settings(event_pause_seconds)
        self._now = now
        self._with_library = conversations
        self._event_pause_seconds = event_pause_seconds
        self._received = 0
        self._tokens = Tokens(secrets.token_bytes(32), now)
        self.accounts = Accounts(self._tokens, now)
        self.alice = self.accounts.add(
            "Alice Winter", user_id="user-Qb7Zt2fMdVn0YxKeWc5uRaLp", email="alice@example.org"
        )
        self.bob = self.accounts.add("Bob Larsen", user_id="user-hT4sJr9GkPz1CmXwEv6oNyDi", email="bob@example.org")
        self.reset()

    def reset(self) -> None:
        """Everything as it was at the start; tokens issued before stay valid, even those that were revoked."""
        self.faults.clear()
        self.requests.clear()
        self._received = 0
        self.settings.event_pause_seconds = self._event_pause_seconds
        self.settings.times = "mixed"
        self._tokens.forget_revocations()
        self.accounts.keep_only([self.alice, self.bob])
        for account in (self.alice, self.bob):
            account.everything.clear()
            account.projects.clear()
            account.generation = None
        if self._with_library:
            library.fill(self.alice, self.bob, now=self._now())

    def add_account(self, name: str, *, user_id: str | None = None, email: str | None = None) -> Account:
        """One more account, without conversations."""
        return self.accounts.add(name, user_id=user_id, email=email)

    def received(self, method: str | None = None, path: str | None = None, *, account: str | None = None) -> int:
        """How many requests arrived. `path` is a glob relative to /backend-api/ without query, `account` a user id."""
        return sum(request.matches(method, path, account) for request in self.requests)

    def fault(self, path: str = "*", **turned: Any) -> Fault:
        """Turn a fault on; the knobs are the fields of Fault. Raises BadKnob."""
        return self.faults.add(Fault.parse({"path": path, **turned}))

    def limit(
        self,
        *,
        after: int,
        text: str | None = None,
        status: int = 429,
        retry_after_seconds: int | None = None,
        clears_in: int | None = None,
        path: str = "*",
        account: str | None = None,
    ) -> Fault:
        """Refuse every request after the first `after`, in upstream's words or those of `text`."""
        return self.faults.add(
            limits.hourly_limit(
                after=after,
                text=text,
                status=status,
                retry_after_seconds=retry_after_seconds,
                clears_in=clears_in,
                path=path,
                account=account,
            )
        )

    def clear_faults(self) -> None:
        """Turn all faults off, releasing what they hold."""
        self.faults.clear()

    def app(self) -> web.Application:
        """An application that serves this simulation; its API is below /backend-api/."""
        app = web.Application(client_max_size=LARGEST_BODY_BYTES, middlewares=[knobs.bad_knobs, self._upstream])
        app[ACCOUNTS] = self.accounts
        app[FAULTS] = self.faults
        app[REQUESTS] = self.requests
        app[SETTINGS] = self.settings
        app[knobs.RESET] = self.reset
        app.add_routes(knobs.routes())
        app.add_routes(_routes())
        app.on_response_prepare.append(_note_status)
        return app

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Serve until left; gives the base URL, which ends in /backend-api/. Port 0 is any that is free."""
        runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            yield f"http://{host}:{runner.addresses[0][1]}{BASE_PATH}"
        finally:
            self.faults.clear()
            await runner.cleanup()

    @web.middleware
    async def _upstream(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """What every request to ChatGPT meets: it is recorded, a fault may befall it, its token is checked."""
        if request.path == "/" or request.path.startswith(knobs.PREFIX):
            return await handler(request)
        received = self._record(request)
        received.body = await request.read()
        fault = self.faults.match(received.method, received.endpoint, received.account)
        delivery = request[DELIVERY] = Delivery(request, fault)
        try:
            if fault is not None:
                await self._befall(request, fault)
            request[ACCOUNT] = self.accounts.by_authorization(request.headers.get("Authorization"))
            response = await handler(request)
        except Refusal as refusal:
            response = web.Response(
                status=refusal.status, text=refusal.text, content_type=refusal.content_type, headers=refusal.headers
            )
        except web.HTTPException as error:
            response = web.json_response({"detail": error.reason}, status=error.status)
        return (
            await delivery.send(response) if isinstance(response, web.Response) and not response.prepared else response
        )

    def _record(self, request: web.Request) -> ReceivedRequest:
        try:
            account = self.accounts.by_authorization(request.headers.get("Authorization")).user_id
        except Refusal:
            account = None
        self._received += 1
        received = ReceivedRequest(
            self._received, request.method, request.raw_path, account, self._now(), headers=request.headers
        )
        self.requests.append(received)
        request[RECEIVED] = received
        return received

    async def _befall(self, request: web.Request, fault: Fault) -> None:
        """What happens before the true answer, and the answer in its place, which is raised."""
        if fault.hold:
            await fault.wait_for_release()
        if fault.delay_seconds:
            await asyncio.sleep(fault.delay_seconds)
        if fault.reset:
            reset(request)
            # Nothing of this is sent, the connection being gone.
            raise Refusal(500, "")
        refusal = fault.refusal()
        if refusal is not None:
            raise refusal


def _routes() -> list[web.RouteDef]:
    paths: list[tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]] = [
        ("GET", "conversations", backend.list_conversations),
        ("PATCH", "conversations", backend.patch_conversations),
        ("POST", "conversation", converse),
        ("GET", "conversation/{id}", backend.get_conversation),
        ("PATCH", "conversation/{id}", backend.patch_conversation),
        ("POST", "conversation/gen_title/{id}", backend.gen_title),
        ("GET", "gizmos/snorlax/sidebar", backend.sidebar),
        ("GET", "gizmos/{id}/conversations", backend.project_conversations),
        ("GET", "files/download/{id}", backend.download_file),
        ("GET", "files/{id}/download", backend.download_file),
        ("GET", "models", backend.models),
    ]
    return [web.route(method, BASE_PATH + path, handler) for method, path, handler in paths]


async def _note_status(request: web.Request, response: web.StreamResponse) -> None:
    was_reset = request.transport is None or request.transport.is_closing()
    if RECEIVED in request and not was_reset:
        request[RECEIVED].status = response.status
