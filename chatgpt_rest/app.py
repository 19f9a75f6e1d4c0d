# SPDX-License-Identifier: GPL-2.0-or-later
"""The wiring and the order of things: what is built from what, what starts before what, and what ends last."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

from aiohttp import web
from yarl import URL

from chatgpt_rest.api.routes import API
from chatgpt_rest.archive.jobs import Jobs
from chatgpt_rest.archive.spool import make_work_folder
from chatgpt_rest.ask import Asking
from chatgpt_rest.auth import Auth, read_digest_key
from chatgpt_rest.budget import NO_LIMIT
from chatgpt_rest.clock import DAY, Clock
from chatgpt_rest.config import Config
from chatgpt_rest.configured import ConfiguredSecret
from chatgpt_rest.context import (
    ALLOWED_HOSTS,
    ASKING,
    AUTH,
    CLOCK,
    CONFIG,
    EDITS,
    FETCHES,
    HISTORIES,
    JOBS,
    MIRROR_OF_ALL,
    MODELS,
    ROUTES,
    SYNC,
    Route,
)
from chatgpt_rest.control import control_over, serve_control
from chatgpt_rest.edits import Edits
from chatgpt_rest.errors import MirrorError, StartError
from chatgpt_rest.fetch import Fetches
from chatgpt_rest.histories import Histories
from chatgpt_rest.listener import listening
from chatgpt_rest.middleware import auth_middleware, budget_middleware, errors_middleware
from chatgpt_rest.mirror import Mirror, open_mirror
from chatgpt_rest.models import ModelLists
from chatgpt_rest.notify import Notifier
from chatgpt_rest.sync import Sync
from chatgpt_rest.upstream.limits import LONGEST_ATTEMPT_SECONDS
from chatgpt_rest.upstream.openai_api import OpenAIUpstream
from chatgpt_rest.upstream.protocol import Upstream
from chatgpt_rest.upstream.revchatgpt import RevChatGPT

_AGAIN_AFTER_SECONDS: Final = 60.0
_RESTS_TIMES: Final = 4
_PURGES_AFTER_SECONDS: Final = 3600.0
_PURGES_EVERY_SECONDS: Final = 86_400.0  # each may write the whole file anew

_ON_THIS_MACHINE: Final = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0", "::"})  # noqa: S104 - recognised only

log = logging.getLogger(__name__)


def build_app(
    config: Config,
    *,
    mirror: Mirror,
    auth: Auth,
    clock: Clock,
    fetches: Fetches,
    sync: Sync,
    asking: Asking,
    histories: Histories,
    models: ModelLists,
    edits: Edits,
    jobs: Jobs,
) -> web.Application:
    """The application over services that somebody else opened and will close."""
    app = web.Application(
        middlewares=[errors_middleware, auth_middleware, budget_middleware],
        client_max_size=config.server.max_body_bytes,
    )
    app[CONFIG] = config
    app[ALLOWED_HOSTS] = config.allowed_hosts
    app[MIRROR_OF_ALL] = mirror
    app[AUTH] = auth
    app[CLOCK] = clock
    app[FETCHES] = fetches
    app[SYNC] = sync
    app[ASKING] = asking
    app[HISTORIES] = histories
    app[MODELS] = models
    app[EDITS] = edits
    app[JOBS] = jobs
    routes: dict[object, Route] = {route.handler: route for route in API}
    if len(routes) < len(API):
        raise ValueError("a handler stands under two routes: the middleware could not tell them apart")
    app[ROUTES] = routes
    for route in API:
        if route.method == "GET":
            app.router.add_get(route.path, route.handler)
        else:
            app.router.add_route(route.method, route.path, route.handler)
    return app


@asynccontextmanager
async def running(config: Config, *, clock: Clock, upstream: Upstream | None = None) -> AsyncIterator[web.Application]:
    """Everything that the server is made of, open, but for its doors. Raises StartError.

    Ends in the opposite order: answers under way first, the database last.
    """
    async with AsyncExitStack() as stack:
        mirror = await stack.enter_async_context(
            open_mirror(
                config.mirror.path,
                clock=clock,
                requests_per_hour=config.rate_limit.requests_per_hour or NO_LIMIT,
                checks_per_hour=config.auth.checks_per_hour,
                longest_attempt_seconds=LONGEST_ATTEMPT_SECONDS,
                cache_bytes=config.mirror.cache_bytes,
            )
        )
        if upstream is None:
            upstream = build_upstream(config, clock)
            stack.push_async_callback(upstream.aclose)
        auth = await build_auth(config, mirror, upstream, clock)
        stack.push_async_callback(auth.aclose)
        fetches = Fetches(upstream, clock)
        stack.push_async_callback(fetches.aclose)
        sync = Sync(
            mirror,
            upstream,
            clock,
            fetches=fetches,
            tokens=auth,
            config=replace(config.sync, enabled=config.sync.enabled and upstream.keeps_conversations),
            jitter=random.SystemRandom().random,
        )
        stack.push_async_callback(sync.aclose)
        edits = Edits(upstream, clock)
        models = ModelLists(fetches, mirror.requests, clock, default_model=config.upstream.model)
        histories = Histories(keeps_conversations=upstream.keeps_conversations)
        asking = Asking(
            upstream,
            mirror.requests,
            default_model=config.upstream.model,
            fetch=fetches.fetch,
            check_model=models.check,
            find_place=histories.place,
            push_title=edits.push_title,
            sleep=asyncio.sleep,
        )
        stack.push_async_callback(asking.drain, config.server.drain_seconds)
        await make_work_folder(config.work_folder)
        jobs = Jobs(mirror, config, clock)
        stack.push_async_callback(jobs.aclose)
        yield build_app(
            config,
            mirror=mirror,
            auth=auth,
            clock=clock,
            fetches=fetches,
            sync=sync,
            asking=asking,
            histories=histories,
            models=models,
            edits=edits,
            jobs=jobs,
        )


def build_upstream(config: Config, clock: Clock) -> Upstream:
    """The upstream that is configured. Nothing is contacted yet. Raises StartError where it is this server."""
    told = config.upstream
    if told.kind == "openai" and _is_itself(config):
        raise StartError(
            f"{config.file}: [upstream] base_url is the address of this server itself: it would ask itself for ever"
        )
    if told.kind == "openai":
        return OpenAIUpstream(base_url=told.base_url, clock=clock, answer_timeout_seconds=told.answer_timeout_seconds)
    return RevChatGPT(base_url=told.base_url, model=told.model, answer_timeout_seconds=told.answer_timeout_seconds)


def _is_itself(config: Config) -> bool:
    upstream, server = URL(config.upstream.base_url), config.server
    is_here = upstream.host == server.host or (config.upstream.is_loopback and server.host in _ON_THIS_MACHINE)
    return is_here and upstream.port == server.port


async def build_auth(config: Config, mirror: Mirror, upstream: Upstream, clock: Clock) -> Auth:
    """Auth over an open mirror, with the key that lies beside it. Raises StartError."""
    key_file = config.mirror.path.with_name(config.mirror.path.name + ".key")
    if not key_file.exists() and await mirror.accounts.keys():
        log.warning("the key file is gone, and with it every API key's worth: make them anew file=%s", key_file)
    api_key = ConfiguredSecret(config.api_key, config.api_key_file)
    if config.upstream.keeps_conversations and api_key.read() is not None:
        log.warning('an API key is given, and not used: [upstream] kind is "chatgpt"')
    return Auth(
        mirror,
        upstream,
        clock,
        digest_key=read_digest_key(key_file),
        accepts_access_tokens=config.accepts_access_tokens,
        configured=ConfiguredSecret(config.access_token, config.access_token_file),
        api_key=None if config.upstream.keeps_conversations else api_key,
    )


async def serve(config: Config, *, clock: Clock, on_ready: Callable[[str], Awaitable[None]] | None = None) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then let answers under way finish. `on_ready` is told the address. Raises
    StartError.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # the last: the terminal it runs in was closed
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    notifier = Notifier.from_environment(os.environ)
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(running(config, clock=clock))
        await stack.enter_async_context(serve_control(control_over(app, clock), config.control_socket))
        listener = await stack.enter_async_context(listening(app, config.server))
        work = (notifier.watchdog(), _go_upstream(config, app), _keep_histories(app), _purge(config, app, clock))
        await stack.enter_async_context(_background(*work))
        log.info("listening address=%s mirror=%s", listener.address, config.mirror.path)
        notifier.ready(f"listening on {listener.address}")
        if on_ready is not None:
            await on_ready(listener.address)
        await stop.wait()
        notifier.stopping()
        log.info("stopping")
        await listener.close_door()
        await app[ASKING].drain(config.server.drain_seconds)


async def _go_upstream(config: Config, app: web.Application) -> None:
    """What the server does of its own accord: prove the configured token, again when its file changed, keep current
    the accounts that a token is at hand for, and push titles that were kept.
    """
    arrivals = app[AUTH].arrivals
    while True:
        arrivals.clear()
        try:
            if app[AUTH].has_new_configured():
                await prove_configured(app)
            app[SYNC].tend()
            if config.sync.enabled:
                await push_titles(app, leave=app[SYNC].leave)
        except Exception:  # a fault now must not end this for the years that the process may run
            log.exception("a round in the background failed")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AGAIN_AFTER_SECONDS):
                await arrivals.wait()


async def _keep_histories(app: web.Application) -> None:
    """Go on with the index of histories until it knows every conversation, resting several times as long as each step
    of that takes.
    """
    loop = asyncio.get_running_loop()
    while True:
        began, hashed = loop.time(), 0
        try:
            hashed = await app[HISTORIES].keep_up(app[MIRROR_OF_ALL])
        except Exception:  # as above
            log.exception("the index of histories could not go on")
        await asyncio.sleep(_RESTS_TIMES * (loop.time() - began) if hashed else _AGAIN_AFTER_SECONDS)


async def _purge(config: Config, app: web.Application, clock: Clock) -> None:
    """Once a day, do away with what was deleted so long ago that nobody may want it back. Not at once: a machine that
    starts with its clock ahead gets the time to be put right, and started again.
    """
    await asyncio.sleep(_PURGES_AFTER_SECONDS)
    while True:
        try:
            purged = await app[MIRROR_OF_ALL].purge_deleted(before=clock.now() - config.mirror.keep_deleted_days * DAY)
            if purged:
                log.info("purged deleted conversations=%d", purged)
        except Exception:  # as above
            log.exception("a purge failed")
        await asyncio.sleep(_PURGES_EVERY_SECONDS)


async def prove_configured(app: web.Application) -> None:
    """Prove the token that the environment or the credentials file gives, and say so where that fails."""
    try:
        await app[AUTH].adopt_configured()
    except MirrorError as error:
        log.warning("the configured access token could not be proved reason=%s", error.text)


async def push_titles(app: web.Application, *, leave: int) -> None:
    """Push the titles that wait, of every account a token is at hand for, leaving so many tokens to people."""
    for account in app[AUTH].accounts():
        try:
            caller = await app[AUTH].caller_of(account, leave=leave)
            await app[EDITS].push_titles(app[MIRROR_OF_ALL].of(account), caller)
        except MirrorError as error:
            log.info("titles are kept account=%s reason=%s", account, error.code)


@asynccontextmanager
async def _background(*work: Awaitable[None]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(each) for each in work]
    for task in tasks:
        task.add_done_callback(_log_failure)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _log_failure(task: asyncio.Future[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        if (error := task.exception()) is not None:
            log.error("work in the background ended", exc_info=error)
