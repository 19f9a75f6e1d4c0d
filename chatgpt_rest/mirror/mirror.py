# SPDX-License-Identifier: GPL-2.0-or-later
"""The mirror as the rest of the program sees it: open it, then ask it for an account."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from chatgpt_rest.clock import Clock
from chatgpt_rest.errors import StartError, StorageFailed
from chatgpt_rest.mirror.accounts import Accounts
from chatgpt_rest.mirror.asks import Asks, recover
from chatgpt_rest.mirror.asset_files import AssetFiles
from chatgpt_rest.mirror.assets import Assets
from chatgpt_rest.mirror.backlog import Backlog
from chatgpt_rest.mirror.conversations import Conversations
from chatgpt_rest.mirror.database import Database, open_database
from chatgpt_rest.mirror.deletions import Deletions
from chatgpt_rest.mirror.history_hashes import HistoryHashes
from chatgpt_rest.mirror.import_jobs import ImportJobs, interrupt
from chatgpt_rest.mirror.imports import Imports
from chatgpt_rest.mirror.listings import Listings
from chatgpt_rest.mirror.models import Models
from chatgpt_rest.mirror.rendered import RenderedCache
from chatgpt_rest.mirror.request_log import RequestLog
from chatgpt_rest.mirror.sync_state import SyncMemory, resume

_ROOT: Final = Path(__file__).parent.parent
MIGRATIONS: Final = next(
    (folder for folder in (_ROOT / "migrations", _ROOT.parent / "migrations") if folder.is_dir()), _ROOT / "migrations"
)
"""In an installed package inside it, in a checkout beside it. In this order: what lies beside an installed package may
be anybody's.
"""

log = logging.getLogger(__name__)


class AccountMirror:
    """Everything the mirror holds of one account. Handlers get no other: a query cannot forget whose it is."""

    def __init__(
        self,
        database: Database,
        cache: RenderedCache,
        clock: Clock,
        account: str,
        *,
        deletions: Counter[str],
        files: AssetFiles,
    ) -> None:
        self.account = account
        self.conversations = Conversations(database, cache, clock, account, deletions=deletions)
        self.asks = Asks(database, cache, clock, account)
        self.deletions = Deletions(database, cache, clock, account, deletions=deletions)
        self.listings = Listings(database, cache, clock, account, deletions=deletions)
        self.backlog = Backlog(database, cache, clock, account)
        self.history_hashes = HistoryHashes(database, account)
        self.models = Models(database, clock, account)
        self.sync = SyncMemory(database, clock, account)
        self.imports = Imports(database, cache, account)
        self.assets = Assets(database, cache, account, files=files)
        self.import_jobs = ImportJobs(database, clock, account)


class Mirror:
    """The open mirror of all accounts. Built by `open_mirror`."""

    def __init__(self, database: Database, clock: Clock, requests: RequestLog, *, cache_bytes: int) -> None:
        self.path = database.path
        self.accounts = Accounts(database, clock)
        self.requests = requests
        self.files = AssetFiles(database.path.with_name("assets"))
        self._database = database
        self._clock = clock
        self._cache = RenderedCache(size_bytes=cache_bytes)
        self._deletions: Counter[str] = Counter()
        self._owes_rewriting = False  # something was purged, and the disk had no room for the file once more

    async def ping(self) -> None:
        """Read something. Raises StorageFailed where the file cannot be read any more."""
        async with self._database.read() as connection:
            await connection.execute_fetchall("select count(*) from account")

    async def faults(self) -> list[str]:
        """What SQLite finds wrong with the file; nothing, in the usual case. Reads all of it."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall("pragma quick_check")
        return [str(row[0]) for row in rows if row[0] != "ok"]

    async def purge_deleted(self, *, before: int) -> int:
        """Of what any account deleted before this time (µs) leave nothing but tombstones, and none of its words in any
        byte of the file, nor of its assets in any file. Answers how many were purged. Raises StorageFailed.
        """
        purged = forgotten = 0
        for account in await self.accounts.all():
            deletions = self.of(account.id).deletions
            purged += await deletions.purge(before=before)
            forgotten += await deletions.forget_imports(before=before)
        self._owes_rewriting |= purged + forgotten > 0
        await self.files.remove_all_but(self._digests)
        if self._owes_rewriting:
            # secure_delete wipes a row where it stands, not the copies left where SQLite moved it from page to page.
            await self._database.rewrite()
            self._owes_rewriting = False
        # Even where nothing was purged: until the log is emptied, it holds what an earlier purge took out of the file.
        if not await self._database.checkpoint():
            log.info("could not empty the log of what was purged, left it to the next purge")
        return purged

    async def _digests(self) -> Set[bytes]:
        """Of every account's assets."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall("select distinct digest from asset")
        return {bytes(row[0]) for row in rows}

    def of(self, account: str) -> AccountMirror:
        """The mirror bound to one account."""
        return AccountMirror(
            self._database, self._cache, self._clock, account, deletions=self._deletions, files=self.files
        )


@asynccontextmanager
async def open_mirror(
    path: Path,
    *,
    clock: Clock,
    requests_per_hour: int,
    checks_per_hour: int,
    longest_attempt_seconds: float,
    cache_bytes: int,
) -> AsyncIterator[Mirror]:
    """Lock, open and migrate the mirror, and put right what a process that died left open. Raises StartError."""
    if not MIGRATIONS.is_dir():
        raise StartError(f"{MIGRATIONS}: there are no migrations; the installation is incomplete")
    async with open_database(path, MIGRATIONS) as database:
        requests = RequestLog(
            database,
            clock,
            capacity=requests_per_hour,
            checks=checks_per_hour,
            longest_attempt_seconds=longest_attempt_seconds,
        )
        try:
            await requests.resume()
            async with database.write() as connection:
                interrupted = await recover(connection)
                await resume(connection, now=clock.now())
                await interrupt(connection, now=clock.now())
        except StorageFailed as error:
            raise StartError(f"{path}: {error.text}") from error
        if interrupted:
            log.warning("an earlier process ended in mid-answer asks=%d", interrupted)
        mirror = Mirror(database, clock, requests, cache_bytes=cache_bytes)
        await mirror.files.clean()
        yield mirror
