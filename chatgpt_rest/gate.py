# SPDX-License-Identifier: GPL-2.0-or-later
"""The gates that requests upstream pass: each takes a token of the budget, and hears what upstream said no to."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from chatgpt_rest import chatgpt_json
from chatgpt_rest.errors import UpstreamError, UpstreamLimit, UpstreamRefusedToken
from chatgpt_rest.mirror import LoggedRequest, RequestLog

log = logging.getLogger(__name__)

ForgetToken = Callable[[UpstreamError], Awaitable[None]]


class AccountGate:
    """Takes the tokens of one account, and draws the consequences of what upstream says to its token."""

    def __init__(self, requests: RequestLog, account: str, *, forget_token: ForgetToken, leave: int = 0) -> None:
        self._requests = requests
        self._account = account
        self._forget_token = forget_token
        self._leave = leave

    async def take(self, method: str, path: str) -> LoggedRequest:
        """One token, if more than `leave` are there. Raises BudgetSpent."""
        return await self._requests.take(self._account, method, path, leave=self._leave)

    async def refused(self, error: UpstreamError, *, model: str | None = None) -> None:
        """A token that was refused is forgotten; a limit holds the account, or asks to the model, back."""
        if isinstance(error, UpstreamRefusedToken):
            await self._forget_token(error)
        elif isinstance(error, UpstreamLimit) and error.retry_after_seconds is not None:
            seconds, body = error.retry_after_seconds, _dumped(error.body)
            if not error.is_of_one_model:
                log.warning("upstream's own limit holds an account back account=%s seconds=%d", self._account, seconds)
                await self._requests.block(self._account, seconds=seconds, body=body)
            elif model is not None:
                await self._requests.block_model(self._account, model, seconds=seconds, body=body)


class CheckGate:
    """Takes the token for the check of an unknown access token, whose claim to an account may be a lie."""

    def __init__(self, requests: RequestLog, account: str, *, is_stranger: bool) -> None:
        self._requests = requests
        self._account = account
        self._is_stranger = is_stranger
        self._taken: list[LoggedRequest] = []

    async def take(self, method: str, path: str) -> LoggedRequest:
        """One token of the account that is claimed and, for a stranger, of the checks. Raises BudgetSpent."""
        request = await self._requests.take(self._account, method, path, is_check=self._is_stranger)
        self._taken.append(request)
        return request

    async def refused(self, error: UpstreamError, *, model: str | None = None) -> None:
        """Nothing follows from it: the token's account is not known yet."""

    async def disown(self) -> None:
        """Upstream let this token in nowhere: the account that it claimed has nothing to do with it."""
        for request in self._taken:
            await self._requests.disown(request)


def _dumped(body: object) -> bytes | None:
    try:
        return None if body is None else chatgpt_json.dump(body)
    except ValueError:
        return None
