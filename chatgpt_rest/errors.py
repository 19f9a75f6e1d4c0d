# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything this program says no with.

    MirrorError
    ├── BadRequest               the request is malformed, or a field of it is
    │   └── UnknownModel             … the model: upstream offers none of that name
    ├── Unauthorized             no credential, or one that proves nothing
    ├── NotFound                 what was named does not exist for this account
    │   ├── NotFetched               … in the mirror, but upstream may have it
    │   └── AssetLost                … on the disk, though the mirror knows of it
    ├── Conflict                 the request contradicts what is there
    ├── TooLarge · UnsupportedMediaType · Misdirected · RequestTimeout
    ├── BudgetSpent              our own bucket is empty, or upstream's limit holds this account back
    ├── UpstreamError            upstream answered with something other than what was asked for
    │   ├── UpstreamRefusedToken     it does not accept the access token (its 401)
    │   ├── UpstreamNotFound         it has no such conversation (its 404)
    │   ├── UpstreamRejected         it finds the request itself wrong (its 400, 413, 422)
    │   ├── UpstreamLimit            its own limit: hourly, or the cap of one model
    │   ├── UpstreamBusy             it writes one answer at a time for an account
    │   ├── UpstreamRefusesPrograms  its bot check turned this program away
    │   ├── UpstreamBroken           HTML, half an answer, nothing at all, a 500
    │   ├── UpstreamAway             no connection
    │   └── UpstreamSlow             no answer in time
    ├── AnswerIncomplete         an answer broke off; what came is in the mirror
    ├── AskUncertain             it is not known whether a prompt reached upstream
    ├── Unavailable              this cannot be done now (no token to ask with, shutting down)
    ├── StorageFailed            the mirror cannot be written (disk full, I/O error)
    └── StartError               the program cannot start: configuration, schema, lock

The text is for a person and never holds a token, a key or a conversation's words; `code` is stable, documented in
docs/api.md, and what programs test for. Statuses are decided in one place: `chatgpt_rest.middleware`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping


class MirrorError(Exception):
    """The root of the tree. `body`, where set, is upstream's own JSON, shown to the client in place of the text;
    `details` stand beside the error and its code.
    """

    code = "internal"

    def __init__(
        self,
        text: str,
        *,
        code: str | None = None,
        body: object = None,
        details: Mapping[str, object] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(text)
        self.details = details or {}
        self.text = text
        self.code = code or type(self).code
        self.body = body
        self.retry_after_seconds = None if retry_after_seconds is None else max(1, math.ceil(retry_after_seconds))


class BadRequest(MirrorError):
    code = "bad_request"


class UnknownModel(BadRequest):
    code = "model_not_found"


class Unauthorized(MirrorError):
    code = "access_token_invalid"


class NotFound(MirrorError):
    """What was named does not exist for this account, whether or not another account has it.

    The name is not repeated unless the text is given: it came from a client, and could be anything, a token included.
    """

    code = "not_found"

    def __init__(self, kind: str, *, text: str | None = None, body: object = None) -> None:
        super().__init__(text or f"there is no such {kind}", body=body)


class NotFetched(NotFound):
    """The mirror does not hold this conversation's content, and nobody has said yet that upstream does not either."""


class AssetLost(NotFound):
    """The file that held this asset is gone; the export that brought it brings it again."""

    code = "asset_lost"

    def __init__(self) -> None:
        super().__init__("asset", text="the file of this asset is gone; import the export that held it again")


class Conflict(MirrorError):
    code = "conflict"


class TooLarge(MirrorError):
    code = "too_large"


class UnsupportedMediaType(MirrorError):
    code = "unsupported_media_type"


class Misdirected(MirrorError):
    code = "host_not_allowed"


class RequestTimeout(MirrorError):
    code = "request_timeout"


class BudgetSpent(MirrorError):
    """No token is left for a request upstream. `retry_after_seconds` says when one comes back."""

    code = "rate_limit_exceeded"

    def __init__(self, *, retry_after_seconds: float, body: object = None, code: str | None = None) -> None:
        super().__init__("Rate limit exceeded", code=code, body=body, retry_after_seconds=retry_after_seconds)


class UpstreamError(MirrorError):
    code = "upstream_error"


class UpstreamRefusedToken(UpstreamError):
    code = "access_token_refused"


class UpstreamNotFound(UpstreamError):
    """`is_gone` is false where upstream only says that this account may not see the conversation
    (`conversation_inaccessible`).
    """

    code = "not_found"

    def __init__(self, text: str, *, is_gone: bool = True, body: object = None) -> None:
        super().__init__(text, body=body)
        self.is_gone = is_gone


class UpstreamRejected(UpstreamError):
    code = "upstream_rejected"


class UpstreamLimit(UpstreamError):
    """Upstream's own limit: for asks to one model only, or else for every request of the account."""

    code = "upstream_rate_limit"

    def __init__(
        self,
        text: str,
        *,
        retry_after_seconds: float,
        is_of_one_model: bool = False,
        body: object = None,
    ) -> None:
        code = "model_cap_exceeded" if is_of_one_model else None
        super().__init__(text, code=code, body=body, retry_after_seconds=retry_after_seconds)
        self.is_of_one_model = is_of_one_model


class UpstreamBusy(UpstreamError):
    code = "upstream_busy"


class UpstreamRefusesPrograms(UpstreamError):
    code = "upstream_refuses_programs"


class UpstreamBroken(UpstreamError):
    code = "upstream_broken"


class UpstreamAway(UpstreamError):
    code = "upstream_away"


class UpstreamSlow(UpstreamError):
    code = "upstream_slow"


class AnswerIncomplete(MirrorError):
    code = "answer_incomplete"


class AskUncertain(MirrorError):
    code = "ask_uncertain"


class Unavailable(MirrorError):
    code = "unavailable"


class StorageFailed(MirrorError):
    code = "storage_failed"


class StartError(MirrorError):
    """The program cannot start. The text names what is wrong and what to do."""

    code = "start"
