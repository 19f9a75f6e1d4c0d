# SPDX-License-Identifier: GPL-2.0-or-later
"""From a credential to an account: digests, the first check upstream, and what requests upstream go with.

A token proves nothing by what it says: only one that upstream accepted counts, and then by its digest. Tokens
themselves are kept in memory alone. Where upstream is an API that knows no accounts, there are no tokens: local keys
tell the accounts apart, and every request goes with the one API key that the owner configured.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from chatgpt_rest.claims import Claims, claims_of, looks_like_token
from chatgpt_rest.clock import DAY, MINUTE, SECOND, Clock, growing_pause
from chatgpt_rest.config import KEY_WAYS
from chatgpt_rest.configured import ConfiguredSecret
from chatgpt_rest.errors import (
    BudgetSpent,
    MirrorError,
    StartError,
    Unauthorized,
    Unavailable,
    UpstreamError,
    UpstreamRefusedToken,
    UpstreamRefusesPrograms,
)
from chatgpt_rest.gate import AccountGate, CheckGate
from chatgpt_rest.mirror import Credential, Mirror
from chatgpt_rest.model import Secret
from chatgpt_rest.upstream.protocol import LARGEST_PAGE, Caller, Upstream

KEY_PREFIX: Final = "cgrt_"
"""What local API keys begin with: such a credential is never taken for a token and never leaves this machine."""

_LONGEST_TOKEN: Final = 8192  # characters
_REFUSAL_LASTS: Final = 10 * MINUTE
_OPAQUE_TOKEN_LASTS: Final = 30 * DAY  # a token that tells no expiry is checked anew after this
_DIGEST_KEY_BYTES: Final = 32
_REMEMBERED: Final = 4096  # credentials and refusals held in memory, the oldest forgotten first

_V = TypeVar("_V")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request is from. `token` is the access token it came with, None with a local API key."""

    account: str
    token: Secret | None


@dataclass(frozen=True, slots=True)
class _HeldToken:
    account: str
    token: Secret
    expires_at: int


def looks_like_credential(text: str) -> bool:
    """Whether this is shaped like a local API key or an access token, which belong into the Authorization header."""
    return text.startswith(KEY_PREFIX) or looks_like_token(text)


class Auth:
    """Who may read what, and with which token a request of theirs goes upstream."""

    def __init__(
        self,
        mirror: Mirror,
        upstream: Upstream,
        clock: Clock,
        *,
        digest_key: bytes,
        accepts_access_tokens: bool,
        configured: ConfiguredSecret,
        api_key: ConfiguredSecret | None = None,
    ) -> None:
        self._mirror = mirror
        self._upstream = upstream
        self._clock = clock
        self._digest_key = digest_key
        self._accepts_access_tokens = accepts_access_tokens
        self._configured = configured if api_key is None else ConfiguredSecret()
        self._api_key = api_key
        self._trying: set[str] = set()  # accounts that go upstream with the API key, which was not refused so far
        self._known: OrderedDict[bytes, Credential] = OrderedDict()
        self._refused: OrderedDict[bytes, int] = OrderedDict()
        self._held: dict[bytes, _HeldToken] = {}
        self._checks: dict[bytes, asyncio.Task[Credential]] = {}
        self._forgotten = 0  # how many credentials were: what was read before one of them may be out of date
        self._configured_tried: Secret | None = None
        self._configured_failures = 0
        self._configured_again_at: int | None = None
        self.arrivals = asyncio.Event()
        """Set whenever a token is at hand that was not: what waits for one may go on."""

    async def aclose(self) -> None:
        """End the checks under way."""
        checks = list(self._checks.values())
        for check in checks:
            check.cancel()
        await asyncio.gather(*checks, return_exceptions=True)

    # ----------------------------------------------------------------------------------------------- who is it

    async def principal(self, authorization: str | None) -> Principal:
        """Who sent this Authorization header, `<token>` or `Bearer <token>`.

        Raises Unauthorized where it proves nothing, and Unavailable where an unknown token cannot be checked now.
        """
        if authorization is None or not authorization.strip():
            raise Unauthorized("access_token is required", code="access_token_required")
        bare = _bare(authorization)
        if bare is None:
            raise Unauthorized("the access token is malformed: it has spaces or characters that no token has")
        token = Secret(bare)
        if self._api_key is not None and not bare.startswith(KEY_PREFIX):
            raise _takes_keys_alone()  # one that ChatGPT accepted once, too: it must never come to another upstream
        credential = await self._find(self._digest(token))
        if credential is None:
            if bare.startswith(KEY_PREFIX):
                raise Unauthorized("there is no such API key, or it was revoked", code="api_key_invalid")
            if not self._accepts_access_tokens:
                raise _takes_keys_alone()
            credential = await self._prove(token, is_stranger=True)
        return self._admit(credential, token)

    async def adopt(self, token: Secret) -> str:
        """Take a token from the owner of this server, prove it, and answer its account. Raises as `principal` does.

        What strangers left of the budget of checks does not matter: they could lock the owner out.
        """
        if self._api_key is not None:
            raise _takes_keys_alone()
        bare = _bare(token.reveal())
        if bare is None or bare.startswith(KEY_PREFIX):
            raise Unauthorized("this is no access token: give what ChatGPT's session endpoint calls accessToken")
        token = Secret(bare)
        credential = await self._find(self._digest(token)) or await self._prove(token, is_stranger=False)
        return self._admit(credential, token).account

    async def adopt_configured(self) -> str | None:
        """Prove the configured token and answer its account; None where none is configured."""
        token = self._configured.read()
        if token is None:
            return None
        if token != self._configured_tried:
            self._configured_tried, self._configured_failures = token, 0
        # One that tells no expiry has to be proved anew after its month.
        self._configured_again_at = self._clock.now() + _OPAQUE_TOKEN_LASTS + MINUTE
        try:
            return await self.adopt(token)
        except Unavailable:
            # Upstream is away, or turns programs away. Each try costs a request, so it is let rest for longer and
            # longer.
            self._configured_again_at = self._clock.now() + growing_pause(self._configured_failures)
            self._configured_failures += 1
            raise
        except Unauthorized:
            self._configured_again_at = self._clock.now() + DAY  # upstream may have been wrong, that once
            raise

    def has_new_configured(self) -> bool:
        """Whether a token is configured of which upstream has not said yes or no, and that is not to be let rest."""
        token = self._configured.read()
        if token is None or token != self._configured_tried:
            return token is not None
        return self._configured_again_at is not None and self._configured_again_at <= self._clock.now()

    def create_key(self) -> tuple[Secret, bytes]:
        """A new local API key, to be shown once, and the digest by which it is known."""
        key = Secret(KEY_PREFIX + secrets.token_urlsafe(32))
        return key, self._digest(key)

    def forget_key(self, digest: bytes) -> None:
        """A key was revoked: from now on it opens nothing."""
        self._forgotten += 1
        self._known.pop(digest, None)

    # ------------------------------------------------------------------------------------- with which token

    async def caller(self, principal: Principal) -> Caller:
        """How a request of this principal goes upstream. Raises Unavailable where there is no token to go with."""
        if principal.token is not None:
            self._refuse_again(self._digest(principal.token))  # it was good when the request came, and may have waited
            return self._caller(principal.account, principal.token)
        return await self.caller_of(principal.account)

    async def caller_of(self, account: str, *, leave: int = 0) -> Caller:
        """How a request on an account's behalf goes upstream, leaving so many tokens to people. Raises Unavailable
        where there is nothing to go with.
        """
        if self._api_key is not None:
            return await self._keyed_caller(account, self._api_key)
        token = self._held_token(account)
        if token is None and self.has_new_configured():
            with contextlib.suppress(MirrorError):  # the reason is told below, in the words of who asked
                await self.adopt_configured()
            token = self._held_token(account)
        if token is None:
            raise Unavailable(
                "no valid access token of this account is at hand; give one with `server.py token`",
                code="no_access_token",
            )
        return self._caller(account, token, leave=leave)

    def accounts(self) -> list[str]:
        """The accounts that a valid token is at hand for."""
        return sorted({held.account for held in self._live_tokens()})

    def expires_at(self, account: str) -> int | None:
        """When the token that requests on the account's behalf go with ends; None where there is none."""
        return max((held.expires_at for held in self._live_tokens() if held.account == account), default=None)

    async def forget(self, account: str, token: Secret, error: UpstreamError) -> None:
        """Upstream refused this token, with `error`: it reads nothing any more."""
        digest = self._digest(token)
        self._held.pop(digest, None)
        self._remember_refusal(digest)
        if token == self._configured_tried:
            self._configured_again_at = self._clock.now() + DAY  # upstream may have been wrong, that once
        log.warning("upstream refused an access token, give a new one: server.py token account=%s", account)
        await self._mirror.accounts.forget(account, digest)
        await self._mirror.of(account).sync.remember(error)
        self._forgotten += 1
        self._known.pop(digest, None)

    # ------------------------------------------------------------------------------------------------- helpers

    async def _keyed_caller(self, account: str, configured: ConfiguredSecret) -> Caller:
        key = configured.read()
        if key is None or _bare(key.reveal()) != key.reveal():
            fault = "no API key is configured" if key is None else "the configured API key is malformed"
            raise Unavailable(f"{fault}; {KEY_WAYS}", code="no_api_key")
        digest = self._digest(key)
        rest = self._refused.get(digest, 0) - self._clock.now()
        if rest > 0:
            raise Unavailable(
                f"upstream refused the configured API key; {KEY_WAYS}",
                code="api_key_refused",
                retry_after_seconds=rest / SECOND,
            )

        if account not in self._trying:
            self._trying.add(account)
            await self._mirror.of(account).sync.forgive()  # what is told as wrong is what was wrong the last time

        async def refuse(error: UpstreamError) -> None:
            self._remember_refusal(digest)
            error.retry_after_seconds = _REFUSAL_LASTS // SECOND
            self._trying.discard(account)
            log.warning("upstream refused the configured API key account=%s", account)
            await self._mirror.of(account).sync.remember(error)

        return Caller(account, key, AccountGate(self._mirror.requests, account, forget_token=refuse))

    def _caller(self, account: str, token: Secret, *, leave: int = 0) -> Caller:
        async def forget_token(error: UpstreamError) -> None:
            await self.forget(account, token, error)

        gate = AccountGate(self._mirror.requests, account, forget_token=forget_token, leave=leave)
        return Caller(account, token, gate)

    async def _find(self, digest: bytes) -> Credential | None:
        """The credential that was accepted and holds still; None where it has to be proved. Raises Unauthorized for
        one that upstream refused of late.
        """
        self._refuse_again(digest)
        credential = self._known.get(digest)
        if credential is None:
            forgotten = self._forgotten
            credential = await self._mirror.accounts.find(digest)
            if digest in self._checks:
                return None  # accepted a moment ago, and the list that came with it is still being written
            if credential is not None and forgotten == self._forgotten:
                _put(self._known, digest, credential)
        if credential is not None and credential.expires_at is not None and credential.expires_at <= self._clock.now():
            self._known.pop(digest, None)
            return None
        return credential

    def _admit(self, credential: Credential, token: Secret) -> Principal:
        if credential.expires_at is None:
            return Principal(credential.account, None)
        if credential.digest not in self._held:
            self.arrivals.set()
        self._held[credential.digest] = _HeldToken(credential.account, token, credential.expires_at)
        return Principal(credential.account, token)

    async def _prove(self, token: Secret, *, is_stranger: bool) -> Credential:
        """Ask upstream about an unknown token: one flight a token, however many requests bring it at once."""
        digest = self._digest(token)
        self._refuse_again(digest)  # or it was proved, either way while the mirror was looked into
        if (known := self._known.get(digest)) is not None:
            return known
        now = self._clock.now()
        claims = claims_of(token)
        if claims.is_unsigned:
            raise Unauthorized("the access token is not signed")
        if claims.expires_at is not None and claims.expires_at <= now:
            raise Unauthorized("the access token has expired", code="access_token_expired")
        check = self._checks.get(digest)
        if check is None:
            check = asyncio.create_task(self._check(token, digest, claims, is_stranger=is_stranger))
            self._checks[digest] = check
            check.add_done_callback(lambda check: self._end_check(digest, check))
        return await asyncio.shield(check)

    def _end_check(self, digest: bytes, check: asyncio.Task[Credential]) -> None:
        del self._checks[digest]
        if not check.cancelled():
            check.exception()  # asked for here too: everybody who waited for it may have hung up

    async def _check(self, token: Secret, digest: bytes, claims: Claims, *, is_stranger: bool) -> Credential:
        account = claims.user_id or f"token-{digest.hex()[:32]}"
        mirror = self._mirror.of(account)
        since = mirror.conversations.deletions
        gate = CheckGate(self._mirror.requests, account, is_stranger=is_stranger)
        try:
            page = await self._upstream.list_page(Caller(account, token, gate), offset=0, limit=LARGEST_PAGE)
        except UpstreamRefusedToken as error:
            self._remember_refusal(digest)
            await gate.disown()
            raise Unauthorized(error.text, code="access_token_refused", body=error.body) from None
        except (UpstreamError, BudgetSpent) as error:
            if isinstance(error, UpstreamRefusesPrograms) or error.code == "upstream_forbidden":
                await gate.disown()  # turned away at the door: whoever's token it was, it counted nowhere
            raise Unavailable(
                f"this access token is new here and cannot be checked now: {error.text}",
                code="token_check_unavailable",
                retry_after_seconds=error.retry_after_seconds,
            ) from None
        expires_at = claims.expires_at or self._clock.now() + _OPAQUE_TOKEN_LASTS
        await self._mirror.accounts.accept(account, digest, email=claims.email, expires_at=expires_at)
        await mirror.listings.take(page, since=since)
        log.info("accepted an access token account=%s", account)
        credential = Credential(account, digest, "access_token", None, self._clock.now(), expires_at)
        _put(self._known, digest, credential)
        return credential

    def _held_token(self, account: str) -> Secret | None:
        mine = [held for held in self._live_tokens() if held.account == account]
        return max(mine, key=lambda held: held.expires_at).token if mine else None

    def _live_tokens(self) -> list[_HeldToken]:
        now = self._clock.now()
        self._held = {digest: held for digest, held in self._held.items() if held.expires_at > now}
        return list(self._held.values())

    def _refuse_again(self, digest: bytes) -> None:
        if self._refused.get(digest, 0) > self._clock.now():
            raise Unauthorized("ChatGPT refused this access token", code="access_token_refused")

    def _remember_refusal(self, digest: bytes) -> None:
        _put(self._refused, digest, self._clock.now() + _REFUSAL_LASTS)

    def _digest(self, token: Secret) -> bytes:
        return hmac.digest(self._digest_key, token.reveal().encode(), "sha256")


def _takes_keys_alone() -> Unauthorized:
    return Unauthorized("access tokens are not accepted with this upstream; use a local API key (server.py key create)")


def _bare(authorization: str) -> str | None:
    """The credential without its scheme, None where it is none. No regular expression: tokens are a thousand characters
    long, and every request brings one.
    """
    stripped = authorization.strip()
    scheme, _, rest = stripped.partition(" ")
    bare = rest.lstrip(" ") if scheme.lower() == "bearer" else stripped
    is_word = bare.isascii() and bare.isprintable() and " " not in bare and bare.lower() != "bearer"
    return bare if is_word and 0 < len(bare) <= _LONGEST_TOKEN else None


def read_digest_key(file: Path) -> bytes:
    """The key under which credentials are hashed, made on first use, readable by its owner alone. Raises StartError."""
    try:
        if not file.exists():
            _make_digest_key(file)
        key = file.read_bytes()
    except OSError as error:
        raise StartError(f"{file}: {error.strerror}") from error
    if len(key) != _DIGEST_KEY_BYTES:
        raise StartError(f"{file}: it is damaged; restore it, or remove it and make the API keys anew")
    return key


def _make_digest_key(file: Path) -> None:
    """All of it or nothing: half a key would lock everybody out."""
    partial = file.with_name(file.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(secrets.token_bytes(_DIGEST_KEY_BYTES))
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(file)


def _put(entries: OrderedDict[bytes, _V], key: bytes, value: _V) -> None:
    entries[key] = value
    entries.move_to_end(key)
    while len(entries) > _REMEMBERED:
        entries.popitem(last=False)
