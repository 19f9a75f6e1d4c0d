# SPDX-License-Identifier: GPL-2.0-or-later
"""Imports that arrive over HTTP: one at a time for an account, and one process that reads for all of them.

A job is a task of its own, so that nobody has to wait for it; how it ended is a row of the mirror, and outlives the
process. What arrives is opened at once, so that a refusal comes at once; what it holds is read when its turn comes. A
job that its owner or the process's own end cuts short is interrupted: what came stays, and the same upload goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from chatgpt_rest.archive.intake import Intake, take_in
from chatgpt_rest.archive.ledger import Fault, Ledger
from chatgpt_rest.archive.reading import Reader, reading, source_of
from chatgpt_rest.archive.spool import Spool
from chatgpt_rest.clock import SECOND, Clock, iso
from chatgpt_rest.config import Config
from chatgpt_rest.errors import Conflict, MirrorError
from chatgpt_rest.mirror import ImportJob, Mirror
from chatgpt_rest.mirror.import_jobs import JobEnd, JobState

MOST_READERS: Final = 4
"""Exports that are open at once: one is read, the others wait for their turn."""

_LOOKS_FOR_SECONDS: Final = 20.0  # until the answer to an upload need not tell any more whether it is refused

log = logging.getLogger(__name__)


class Upload:
    """What one client sends, and the job that it becomes."""

    def __init__(self, account: str, job_id: str, spool: Spool, *, began_at: int) -> None:
        self.account = account
        self.id = job_id
        self.spool = spool
        self.began_at = began_at
        self.state: JobState = "waiting"
        self.dry_run = False
        self.ended_at: int | None = None
        self.error: Fault | None = None
        self.ledger: Ledger | None = None
        self.total_bytes: int | None = None
        self.intake: Intake | None = None
        self.task: asyncio.Task[None] | None = None
        self.coming_in = asyncio.timeout(None)
        """What the upload comes in under; it passes only where somebody cancels it."""
        self.has_come = False
        self.is_cancelled = False
        self.was_opened = asyncio.Event()
        """Whether it is one of this account's exports, and one that can be read, is known; or it has ended."""

    @property
    def is_over(self) -> bool:
        return self.state not in {"waiting", "running"}

    def stop(self) -> None:
        """Break the job off, unless that has been done."""
        # A second cancellation would break off how the first one puts things in order.
        if self.task is not None and not self.task.cancelling():
            self.task.cancel()

    def interrupt(self) -> None:
        """It has been broken off. One that is all in by then is complete, and stays so."""
        if self.ledger is None:
            why = "it was cancelled" if self.is_cancelled else "the server was stopped"
            self.error = Fault(error=f"{why}; what came is kept", code="interrupted")
            self.ledger = None if self.intake is None else self.intake.ledger(self.error)


class Jobs:
    """The uploads and jobs of this process."""

    def __init__(self, mirror: Mirror, config: Config, clock: Clock) -> None:
        self._mirror = mirror
        self._config = config
        self._clock = clock
        self._last: dict[str, Upload] = {}  # of each account; over or not
        self._readers = asyncio.Semaphore(MOST_READERS)
        self._turn = asyncio.Lock()

    async def aclose(self) -> None:
        """End the jobs under way."""
        for upload in self._last.values():
            upload.stop()
        tasks = [upload.task for upload in self._last.values() if upload.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def receiving(self, account: str) -> AsyncIterator[Upload]:
        """The account's next import, for as long as it comes in. Unless `begin` is called before the end, nothing is
        left of it. Raises Conflict while another one is coming in or under way, and where it is cancelled.
        """
        before = self._last.get(account)
        if before is not None and not before.is_over:
            raise Conflict(
                "an import of this account is under way; wait for its end",
                code="import_running",
                details={"job": before.id},
            )
        job_id = str(uuid.uuid4())
        spool = Spool(self._config.work_folder / job_id)
        upload = self._last[account] = Upload(account, job_id, spool, began_at=self._clock.now())
        try:
            async with upload.coming_in:
                yield upload
        except TimeoutError:
            raise Conflict("the import was cancelled") from None
        finally:
            if upload.task is None:
                if before is None:
                    del self._last[account]
                else:
                    self._last[account] = before
                await upload.spool.remove()
                upload.was_opened.set()

    async def begin(self, upload: Upload, *, dry_run: bool) -> None:
        """Have it imported. Waits a while for it to be opened, and raises Conflict where it is another account's
        export; whatever else is wrong with it is told by the job.
        """
        upload.has_come = True
        upload.coming_in.reschedule(None)
        upload.dry_run = dry_run
        await self._mirror.of(upload.account).import_jobs.begin(upload.id)
        upload.task = asyncio.create_task(self._run(upload))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOKS_FOR_SECONDS):
                await upload.was_opened.wait()
        if upload.error is not None and upload.error.code == "other_account":
            raise Conflict(upload.error.error, code=upload.error.code)

    async def status(self, account: str, job_id: str) -> dict[str, Any]:
        """How a job stands, in plain JSON values. Raises NotFound."""
        upload = self._last.get(account)
        if upload is None or upload.id != job_id:
            job = await self._mirror.of(account).import_jobs.get(job_id)
            outcome: dict[str, Any] = msgspec.json.decode(job.outcome) if job.outcome else {}
            return _status_json(job, progress=None, ledger=outcome.get("ledger"), error=outcome.get("error"))
        return _status_json(
            ImportJob(upload.id, upload.state, upload.began_at, upload.ended_at),
            progress=self._progress(upload),
            ledger=None if upload.ledger is None else upload.ledger.as_json(),
            error=None if upload.error is None else msgspec.to_builtins(upload.error),
        )

    async def cancel(self, account: str, job_id: str) -> None:
        """Break a job off, and wait for its end; what is over is left as it is. Raises NotFound."""
        upload = self._last.get(account)
        if upload is None or upload.id != job_id:
            await self._mirror.of(account).import_jobs.get(job_id)
            return
        upload.is_cancelled = True
        if upload.task is not None:
            upload.stop()
            await asyncio.wait([upload.task])
            if not upload.is_over:  # it had not taken its first step
                upload.interrupt()
                await self._end(upload)
        else:
            if not upload.has_come and not upload.coming_in.expired():
                upload.coming_in.reschedule(asyncio.get_running_loop().time())
            await upload.was_opened.wait()

    def _progress(self, upload: Upload) -> dict[str, Any] | None:
        intake = upload.intake
        if intake is None or upload.total_bytes is None or upload.is_over:
            return None
        seconds = (self._clock.now() - intake.began_at) / SECOND
        bytes_per_second = round(intake.done_bytes / seconds) if seconds > 0 else None
        left = upload.total_bytes - intake.done_bytes
        return {
            "done_bytes": intake.done_bytes,
            "total_bytes": upload.total_bytes,
            "conversations": intake.tally.conversations["read"],
            "messages": intake.tally.messages["read"],
            "bytes_per_second": bytes_per_second,
            "seconds_left": round(left / bytes_per_second) if bytes_per_second else None,
        }

    async def _run(self, upload: Upload) -> None:
        try:
            await self._import(upload)
        except asyncio.CancelledError:
            upload.interrupt()
            raise
        except MirrorError as error:
            upload.error = Fault.of(error)
        except Exception:
            log.exception("an import failed job=%s", upload.id)
            upload.error = Fault(error="something went wrong here; the log says what", code="internal")
        finally:
            # A stop that comes now finds it over, and must not change how.
            ending = asyncio.create_task(self._end(upload))
            try:
                await asyncio.shield(ending)
            finally:
                await asyncio.wait([ending])

    async def _import(self, upload: Upload) -> None:
        if upload.is_cancelled:  # before there was a task to tell
            raise asyncio.CancelledError
        async with self._readers, reading(source_of(upload.spool.paths, self._config)) as reader:
            named = reader.opened.account
            if named not in {None, upload.account}:
                raise Conflict("this is another account's export: its user.json says so", code="other_account")
            if self._turn.locked():
                upload.was_opened.set()
            async with self._turn:
                await self._take(upload, reader)

    async def _take(self, upload: Upload, reader: Reader) -> None:
        mirror = self._mirror.of(upload.account)
        await mirror.import_jobs.run(upload.id)
        upload.state = "running"
        upload.total_bytes = reader.opened.total_bytes
        upload.intake = Intake(mirror, self._mirror.files, clock=self._clock, dry_run=upload.dry_run)
        upload.was_opened.set()
        await reader.go(upload.account)
        upload.ledger = await take_in(upload.intake, reader.bodies())
        upload.error = upload.ledger.error

    async def _end(self, upload: Upload) -> None:
        await upload.spool.remove()
        state: JobEnd = "failed" if upload.error else "done"
        if upload.error is not None and upload.error.code == "interrupted":
            state = "interrupted"
        outcome = {"ledger": None if upload.ledger is None else upload.ledger.as_json(), "error": upload.error}
        try:
            await self._mirror.of(upload.account).import_jobs.finish(upload.id, state, msgspec.json.encode(outcome))
        except MirrorError as error:  # this process still knows; the next one finds it interrupted
            log.warning("the end of an import could not be written job=%s reason=%s", upload.id, error.text)
        upload.ended_at = self._clock.now()
        upload.state = state
        upload.was_opened.set()
        log.info("an import ended job=%s account=%s state=%s", upload.id, upload.account, state)


def _status_json(
    job: ImportJob, *, progress: dict[str, Any] | None, ledger: dict[str, Any] | None, error: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "job": job.id,
        "state": job.state,
        "began_at": iso(job.began_at),
        "ended_at": None if job.ended_at is None else iso(job.ended_at),
        "progress": progress,
        "ledger": ledger,
        "error": error,
    }
