# SPDX-License-Identifier: GPL-2.0-or-later
"""The mirror: all SQL of the program, one file, one writer, every query bound to an account."""

from chatgpt_rest.mirror.accounts import Account, Accounts, Credential
from chatgpt_rest.mirror.asks import AskRecord, AskState
from chatgpt_rest.mirror.conversations import Conversations, ListQuery, Standing
from chatgpt_rest.mirror.mirror import MIGRATIONS, AccountMirror, Mirror, open_mirror
from chatgpt_rest.mirror.rendered import Rendered
from chatgpt_rest.mirror.request_log import LoggedRequest, RequestLog

__all__ = [
    "MIGRATIONS",
    "Account",
    "AccountMirror",
    "Accounts",
    "AskRecord",
    "AskState",
    "Conversations",
    "Credential",
    "ListQuery",
    "LoggedRequest",
    "Mirror",
    "Rendered",
    "RequestLog",
    "Standing",
    "open_mirror",
]
