# SPDX-License-Identifier: GPL-2.0-or-later
"""Which models can be asked: upstream's own list, read once a day and kept in the mirror. None is named in this
program.
"""

from __future__ import annotations

import logging
from typing import Final

from chatgpt_rest.clock import DAY, HOUR, MINUTE, Clock
from chatgpt_rest.errors import (
    BudgetSpent,
    MirrorError,
    Unauthorized,
    Unavailable,
    UnknownModel,
    UpstreamBroken,
    UpstreamError,
    UpstreamNotFound,
    UpstreamRejected,
)
from chatgpt_rest.fetch import Fetches
from chatgpt_rest.mirror import AccountMirror, KnownModels, RequestLog
from chatgpt_rest.upstream.protocol import FindCaller

AUTOMATIC: Final = "auto"
"""Lets ChatGPT choose. It takes this name although its list does not have it."""

_FRESH_FOR: Final = DAY
_TRUSTED_FOR: Final = HOUR  # that a model is missing: upstream may have added it since
_RESTS_FOR: Final = (
    10 * MINUTE
)  # after a failure: each try costs a request, and some clients read the list all the time
_RESTS_FOR_WITHOUT_LIST: Final = HOUR  # where upstream says that it has no such list at all
_MOST_NAMED: Final = 30  # models in an error's text

log = logging.getLogger(__name__)


class ModelLists:
    """Upstream's lists of models, one for each account: any number of readers wait for one request."""

    def __init__(self, fetches: Fetches, requests: RequestLog, clock: Clock, *, default_model: str) -> None:
        self._fetches = fetches
        self._requests = requests
        self._clock = clock
        self._default_model = default_model
        self._failures: dict[str, tuple[int, UpstreamError]] = {}

    async def read(self, mirror: AccountMirror, find_caller: FindCaller) -> KnownModels:
        """The list, at most a day old where upstream can be asked: else as old as it is.

        Raises UpstreamError, BudgetSpent and Unavailable where there is none at all.
        """
        known = await mirror.models.known()
        if known is not None and self._age(known) < _FRESH_FOR:
            return known
        try:
            return await self._fetch(mirror, find_caller, instead_of=known)
        except (UpstreamError, BudgetSpent, Unavailable, Unauthorized) as error:
            if known is None:
                raise
            log.info("a list of models stays old account=%s reason=%s", mirror.account, error.code)
            return known

    async def check(self, mirror: AccountMirror, name: str, find_caller: FindCaller) -> None:
        """Raises UnknownModel where upstream offers no model of this name, and says which it does.

        What nobody can tell passes, and upstream itself will say: where the list cannot be read, and where reading it
        would take the token that the ask needs.
        """
        if name in {AUTOMATIC, self._default_model}:
            return
        known = await mirror.models.known()
        if known is not None and known.has(name):
            return
        if known is None or self._age(known) >= _TRUSTED_FOR:
            if not await self._requests.has_left(mirror.account, leave=1):
                return
            try:
                known = await self._fetch(mirror, find_caller, instead_of=known)
            except (UpstreamError, BudgetSpent, Unavailable, Unauthorized) as error:
                log.info("could not check a model's name account=%s reason=%s", mirror.account, error.code)
                return
        if known.models and not known.has(name):
            raise unknown_model(known)

    async def _fetch(
        self, mirror: AccountMirror, find_caller: FindCaller, *, instead_of: KnownModels | None
    ) -> KnownModels:
        until, failure = self._failures.get(mirror.account, (0, None))
        if failure is not None and until > self._clock.now():
            raise failure.with_traceback(None)
        try:
            await self._fetches.fetch_models(mirror, find_caller, instead_of=instead_of)
        except UpstreamError as error:
            rest = _RESTS_FOR_WITHOUT_LIST if _has_no_list(error) else _RESTS_FOR
            self._failures[mirror.account] = (self._clock.now() + rest, error)
            raise
        self._failures.pop(mirror.account, None)
        known = await mirror.models.known()
        if known is None:
            raise RuntimeError("the list of models was read and is not there")
        return known

    def _age(self, known: KnownModels) -> int:
        return self._clock.now() - known.fetched_at


def unknown_model(known: KnownModels) -> UnknownModel:
    """Upstream offers none of that name. The name is not repeated: a client's settings are easily mixed up, and it
    could be a key.
    """
    names = [model.id for model in known.models]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return UnknownModel(f"upstream offers no model of this name; it offers {', '.join(names[:_MOST_NAMED])}{more}")


def _has_no_list(error: MirrorError) -> bool:
    is_no_path = isinstance(error, UpstreamBroken) and error.code == "upstream_unknown_path"
    return is_no_path or isinstance(error, UpstreamNotFound | UpstreamRejected)
