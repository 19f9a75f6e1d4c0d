# SPDX-License-Identifier: GPL-2.0-or-later
"""The mirror: all SQL of the program, one file, one writer, every query bound to an account."""

from chatgpt_rest.mirror.accounts import Account, Accounts, Credential
from chatgpt_rest.mirror.asks import AskRecord, AskState
from chatgpt_rest.mirror.asset_files import AssetFiles, IncomingFile, KeptFile
from chatgpt_rest.mirror.assets import Added, Asset, AssetCounts, Attached
from chatgpt_rest.mirror.backlog import Counts, SetAside, StaleConversation
from chatgpt_rest.mirror.conversations import Conversations, ListQuery, Standing
from chatgpt_rest.mirror.deletions import Buried
from chatgpt_rest.mirror.history_hashes import Hashed
from chatgpt_rest.mirror.import_jobs import ImportJob
from chatgpt_rest.mirror.imports import Taken
from chatgpt_rest.mirror.listings import KnownList
from chatgpt_rest.mirror.mirror import MIGRATIONS, AccountMirror, Mirror, open_mirror
from chatgpt_rest.mirror.models import KnownModels
from chatgpt_rest.mirror.rendered import Rendered
from chatgpt_rest.mirror.request_log import LoggedRequest, RequestLog
from chatgpt_rest.mirror.sync_state import LastError, SyncState

__all__ = [
    "MIGRATIONS",
    "Account",
    "AccountMirror",
    "Accounts",
    "Added",
    "AskRecord",
    "AskState",
    "Asset",
    "AssetCounts",
    "AssetFiles",
    "Attached",
    "Buried",
    "Conversations",
    "Counts",
    "Credential",
    "Hashed",
    "ImportJob",
    "IncomingFile",
    "KeptFile",
    "KnownList",
    "KnownModels",
    "LastError",
    "ListQuery",
    "LoggedRequest",
    "Mirror",
    "Rendered",
    "RequestLog",
    "SetAside",
    "StaleConversation",
    "Standing",
    "SyncState",
    "Taken",
    "open_mirror",
]
