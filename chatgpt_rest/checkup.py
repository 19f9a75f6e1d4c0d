# SPDX-License-Identifier: GPL-2.0-or-later
"""`server.py check`: what is right, what is wrong, and what to do about it. It spends no request of anyone's budget."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from yarl import URL

from chatgpt_rest.app import running
from chatgpt_rest.clock import Clock
from chatgpt_rest.config import KEY_WAYS, Config
from chatgpt_rest.configured import ConfiguredSecret
from chatgpt_rest.control import call_server, control_over
from chatgpt_rest.errors import MirrorError, UpstreamRefusedToken
from chatgpt_rest.sync_status import STORAGE_CODES, TOKEN_CODES, counted

_CONNECT_SECONDS: Final = 5.0
_MIB: Final = 1024 * 1024
_ENOUGH_BYTES: Final = 100 * _MIB


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `soon` is right today and will not be for long."""

    verdict: Literal["right", "soon", "wrong"]
    text: str
    remedy: str = ""


async def checkup(config: Config, clock: Clock) -> list[Finding]:
    """Look at everything, in the order in which one thing needs another."""
    return [finding async for finding in _findings(config, clock)]


async def _findings(config: Config, clock: Clock) -> AsyncIterator[Finding]:
    yield Finding("right", f"configuration: {config.file}")
    has_key = ConfiguredSecret(config.api_key, config.api_key_file).read() is not None
    try:
        report, server = await _report(config, clock)
    except MirrorError as error:
        yield Finding("wrong", f"mirror: {error.text}")
    else:
        yield Finding("right", server)
        if report["is_server"]:
            has_key = report["has_api_key"]  # a service is given it where no command sees it
        for finding in _about_mirror(config, report):
            yield finding
    if not config.upstream.keeps_conversations:
        yield _api_key(has_key=has_key)
    yield await _upstream(config)


async def _report(config: Config, clock: Clock) -> tuple[dict[str, Any], str]:
    try:
        report = await call_server(config.control_socket, "report", {})
    except ConnectionError:
        async with running(config, clock=clock) as app:
            report = await control_over(app, clock, is_server=False).report()
            return report, "server: none is running; looked at the mirror directly"
    if not report["is_server"]:
        return report, f"server: none is running; process {report['process']}, another command, has the mirror"
    return report, f"server: running as process {report['process']}"


def _about_mirror(config: Config, report: dict[str, Any]) -> list[Finding]:
    findings = [Finding("wrong", f"mirror: {fault}", "restore a backup") for fault in report["faults"]]
    if not findings:
        findings.append(Finding("right", f"mirror: {config.mirror.path} is sound"))
    free_bytes = shutil.disk_usage(config.mirror.path.parent).free
    if free_bytes < _ENOUGH_BYTES:
        text = f"disk: {free_bytes // _MIB} MiB are left where the mirror is; without room it takes nothing in"
        findings.append(Finding("wrong", text, "make room"))
    keeps_conversations = config.upstream.keeps_conversations
    if not report["accounts"]:
        remedy = "send a request with an access token" if keeps_conversations else "server.py key create NAME"
        findings.append(Finding("soon", "accounts: none yet", remedy))
    if keeps_conversations and not config.sync.enabled:
        text = "sync: off; the mirror is brought up to date only when asked for: server.py sync, or POST /sync"
        findings.append(Finding("soon", text, "[sync] enabled = true"))
    for account in report["accounts"]:
        findings.append(_about_account(account, has_token=keeps_conversations))
        if keeps_conversations:
            findings += _about_sync(account, has_server=report["is_server"])
        elif (error := account["sync"]["last_error"]) is not None:
            failed = f"asks of {account['name'] or account['id']}: {error['error']}, last at {error['at']}"
            findings.append(Finding("wrong", failed, KEY_WAYS))
    return findings


def _about_account(account: dict[str, Any], *, has_token: bool) -> Finding:
    held = f"account {account['name'] or account['id']}: {counted(account['conversations'], 'conversation')}"
    left = "no limit of requests"
    if account["capacity"] is not None:
        left = f"{account['remaining']} of {counted(account['capacity'], 'request')} left"
    text, whose = f"{held}, {left}, ", "ChatGPT's" if has_token else "upstream's"
    if account["blocked_until"] is not None:
        return Finding("soon", f"{text}held back by {whose} own limit until {account['blocked_until']}", "wait")
    if not has_token:
        return Finding("right", f"{held}, {left}")
    expiry = account["token_expires_at"]
    remedy = "give a new one: server.py token"
    if expiry is None:
        return Finding("soon", text + "no access token known", remedy)
    if account["is_token_expired"]:
        return Finding("wrong", text + f"access token expired {expiry}", remedy)
    return Finding(
        "soon" if account["expires_soon"] else "right",
        text + f"access token until {expiry}",
        remedy * account["expires_soon"],
    )


def _about_sync(account: dict[str, Any], *, has_server: bool) -> list[Finding]:
    sync, name = account["sync"], account["name"] or account["id"]
    counts, error = sync["conversations"], sync["last_error"]
    text = (
        f"sync of {name}: {counted(counts['stale'], 'conversation')} stale, {counts['set_aside']} set aside, "
        f"{counts['missing_upstream']} missing upstream, last full sweep {sync['last_full_sweep'] or 'never'}"
    )
    findings = [Finding("right", text)]
    if counts["set_aside"]:
        findings = [Finding("soon", text, "try them again: server.py sync --full")]
    again = "it is tried again by itself" if sync["enabled"] and has_server else "try again: server.py sync"
    is_no_news = sync["reason"] == "no_access_token" and not has_server  # without one it is at hand nowhere
    if sync["state"] in {"paused", "offline"} and not is_no_news:
        findings.append(_what_stops(f"sync of {name}", sync, again=again))
    if error is not None and error["code"] != sync["reason"]:
        failed = f"sync of {name}: failed last at {error['at']}: {error['error']} ({error['code']})"
        if error["code"] == UpstreamRefusedToken.code:
            findings.append(Finding("wrong", failed, "give a new one: server.py token"))
        else:
            findings.append(Finding("soon", failed, again))
    return findings


def _what_stops(what: str, sync: dict[str, Any], *, again: str) -> Finding:
    reason, until, error = sync["reason"], sync["resumes_at"], sync["last_error"]
    if reason in TOKEN_CODES:
        words = {
            UpstreamRefusedToken.code: "ChatGPT refused the access token",
            "no_access_token": "no access token is at hand",
        }
        text = f"{what}: paused, {words.get(reason, 'the access token has expired')}"
        return Finding("soon" if reason == "no_access_token" else "wrong", text, "give a new one: server.py token")
    if reason in STORAGE_CODES:
        text = f"{what}: paused until {until}, the mirror cannot be written ({reason})"
        return Finding("wrong", text, "see to the disk that holds it")
    if sync["state"] == "offline":
        told = f"{error['error']} ({reason})" if error else reason
        return Finding("soon", f"{what}: ChatGPT is let rest until {until}: {told}", again)
    return Finding("soon", f"{what}: paused until {until} by ChatGPT's own limit", "wait")


def _api_key(*, has_key: bool) -> Finding:
    """Whether there is a key to ask with. Whether upstream takes it, only a request could tell."""
    if not has_key:
        return Finding("wrong", "upstream: no API key is configured; reading goes on without one", KEY_WAYS)
    return Finding("right", 'upstream: an API key is configured; kind = "openai": conversations live here, sync is off')


async def _upstream(config: Config) -> Finding:
    """Whether a connection can be made. No request is sent on it."""
    url = URL(config.upstream.base_url)
    if url.scheme == "http" and not config.upstream.is_loopback:
        # A model server of one's own, in one's own network, is often reached so.
        verdict: Literal["soon", "wrong"] = "wrong" if config.upstream.keeps_conversations else "soon"
        return Finding(verdict, f"upstream: {url} sends tokens over the network in clear", "use https")
    context = ssl.create_default_context() if url.scheme == "https" else None
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(url.host, url.port, ssl=context)
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return Finding("wrong", f"upstream: {url.host} cannot be reached ({reason})", "reading goes on without it")
    writer.close()
    return Finding("right", f"upstream: {url.host} can be reached")
