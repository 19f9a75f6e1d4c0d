# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames into the mirror. Each batch is one transaction and each asset one file, and what is here already is left as it
is: an import that broke off is finished by running it again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

from chatgpt_rest.archive import wire
from chatgpt_rest.archive.ledger import Fault, Ledger, Tally
from chatgpt_rest.clock import SECOND, Clock
from chatgpt_rest.errors import BadRequest, MirrorError, NotFound, StorageFailed
from chatgpt_rest.mirror import AccountMirror, AssetFiles, IncomingFile

_PLACEMENTS: Final = 500  # written in one transaction


class Intake:
    """Takes one export in, frame by frame, and counts. With `dry_run` it only counts."""

    def __init__(self, mirror: AccountMirror, files: AssetFiles, *, clock: Clock, dry_run: bool) -> None:
        self.tally = Tally()
        self.done_bytes = 0
        self.began_at = clock.now()
        self._mirror = mirror
        self._files = files
        self._clock = clock
        self._dry_run = dry_run
        self._is_ended = False
        self._placements: list[wire.Placement] = []
        self._asset: _Asset | None = None
        self._assets: set[str] = set()  # that came
        self._pointed: set[str] = set()  # that conversations of this export point to
        self._purged: set[str] = set()  # that conversations of it point to which are purged here
        self._unwanted: set[str] | None = None

    async def take(self, frame: wire.Frame) -> None:
        """The next frame. Raises StorageFailed, and BadRequest where the reader has given up."""
        if self._placements and not isinstance(frame, wire.Placement):
            await self._place()
        match frame:
            case wire.Batch():
                await self._take_batch(frame)
            case wire.Placement():
                self._placements.append(frame)
                if len(self._placements) >= _PLACEMENTS:
                    await self._place()
            case wire.AssetBegins():
                await self._begin_asset(frame)
            case wire.AssetBytes():
                await self._asset_begun.write(frame.content)
            case wire.AssetEnds():
                await self._end_asset(frame)
            case wire.ExportFile():
                await self._keep_file(frame)
            case wire.Refused():
                raise BadRequest(frame.text, code=frame.code)
            case _:
                self._note(frame)
        if isinstance(frame, wire.Batch | wire.AssetBytes | wire.Ended):
            self.done_bytes = frame.done_bytes

    async def finish(self, fault: MirrorError | None = None) -> Ledger:
        """The end, and how it went; `fault` is what ended it before its time. To be called whatever happened."""
        await self.discard()
        if fault is None and not self._is_ended:
            fault = MirrorError("the export was not read to its end", code="reading_ended")
        try:
            await self._count_standing()
        except StorageFailed as error:
            fault = fault or error
        return self.ledger(None if fault is None else Fault.of(fault))

    async def discard(self) -> None:
        """Leave nothing of an asset that has not come whole."""
        if self._asset is not None:
            await self._asset.discard()
            self._asset = None

    def ledger(self, fault: Fault | None) -> Ledger:
        """How things stand."""
        return self.tally.ledger(
            self._mirror.account,
            dry_run=self._dry_run,
            fault=fault,
            seconds=(self._clock.now() - self.began_at) / SECOND,
            done_bytes=self.done_bytes,
        )

    async def _take_batch(self, batch: wire.Batch) -> None:
        outcomes = await self._mirror.imports.take(batch.conversations, dry_run=self._dry_run)
        for incoming, taken in zip(batch.conversations, outcomes, strict=True):
            self.tally.took(incoming, taken)
            self._pointed.update(pointer.asset for pointer in incoming.pointers)
            self._purged.update(taken.purged_assets)

    async def _place(self) -> None:
        placements, self._placements = self._placements, []
        self._pointed.update(each.asset for each in placements if each.conversation or each.node)
        if not self._dry_run:
            self._purged |= await self._mirror.imports.place(placements)

    async def _keep_file(self, frame: wire.ExportFile) -> None:
        if not self._dry_run:
            await self._mirror.imports.keep_file(frame.name, frame.content, modified_at=frame.modified_at)
        self.tally.files["kept"] += 1

    def _note(self, frame: wire.Opened | wire.SetAside | wire.Ignored | wire.Ended) -> None:
        match frame:
            case wire.Opened():
                self.tally.missing_files = frame.missing
            case wire.SetAside():
                self.tally.put_aside(frame)
            case wire.Ignored():
                self.tally.files["ignored"] += 1
            case wire.Ended():
                self._is_ended = True

    # ----------------------------------------------------------------------------------------------------- assets

    async def _begin_asset(self, frame: wire.AssetBegins) -> None:
        await self.discard()
        if self._unwanted is None:  # by now every conversation and every placement has come
            self._unwanted = await self._mirror.assets.unwanted(self._purged)
        is_kept = not self._dry_run and frame.id not in self._unwanted
        self._asset = await _Asset.begin(frame, self._files if is_kept else None)

    @property
    def _asset_begun(self) -> _Asset:
        if self._asset is None:
            raise BadRequest("an asset goes on that did not begin", code="export_refused")
        return self._asset

    async def _end_asset(self, frame: wire.AssetEnds) -> None:
        asset = self._asset_begun
        if frame.fault is not None:
            self.tally.put_aside(wire.SetAside("asset", asset.member, frame.fault, id=asset.id, title=asset.name))
        else:
            outcome = await self._keep(asset)
            self.tally.took_asset(outcome)
            if outcome != "left_deleted":
                self._assets.add(asset.id)
        await self.discard()

    async def _keep(self, asset: _Asset) -> str:
        if asset.id in (self._unwanted or ()):
            return "left_deleted"
        if asset.file is None:
            return await self._guess(asset)
        kept = await asset.file.keep()
        is_new = await self._mirror.assets.add(asset.id, kept, name=asset.name, member=asset.member)
        return "stored" if is_new else "unchanged"

    async def _guess(self, asset: _Asset) -> str:
        """What would become of it: nobody has looked at its bytes."""
        try:
            here = await self._mirror.assets.find(asset.id)
        except NotFound:
            return "stored"
        return "unchanged" if here.size_bytes == asset.size_bytes else "stored"

    async def _count_standing(self) -> None:
        if self._dry_run:
            self.tally.assets.update(
                placed=len(self._assets & self._pointed), unplaced=len(self._assets - self._pointed)
            )
            absent = self._pointed - self._assets
            standing = await self._mirror.assets.standing(absent)
            self.tally.assets["missing"] = len(absent) - standing.placed - standing.unplaced
        else:
            standing = await self._mirror.assets.standing(self._assets | self._pointed)
            self.tally.assets.update(placed=standing.placed, unplaced=standing.unplaced, missing=standing.missing)


class _Asset:
    """The asset that is coming. `file` is None where its bytes are not to be kept."""

    def __init__(self, frame: wire.AssetBegins) -> None:
        self.id = frame.id
        self.name = frame.name
        self.member = frame.member
        self.size_bytes = frame.size_bytes
        self.file: IncomingFile | None = None
        self._stack = AsyncExitStack()

    @classmethod
    async def begin(cls, frame: wire.AssetBegins, files: AssetFiles | None) -> _Asset:
        asset = cls(frame)
        if files is not None:
            asset.file = await asset._stack.enter_async_context(files.incoming())
        return asset

    async def write(self, content: bytes) -> None:
        if self.file is not None:
            await self.file.write(content)

    async def discard(self) -> None:
        """Be done with it: what was kept stays."""
        await self._stack.aclose()


async def take_in(intake: Intake, bodies: AsyncIterator[bytes]) -> Ledger:
    """Take in frames, without their lengths, to the end. What ends them before stands in the ledger; nothing but
    cancellation and faults of this program are raised.
    """
    fault: MirrorError | None = None
    try:
        async for body in bodies:
            await intake.take(wire.decode(body))
    except MirrorError as error:
        fault = error
    except ValueError:  # msgspec's
        fault = MirrorError("what reads the export speaks another version's language", code="reading_ended")
    except BaseException:
        await intake.discard()
        raise
    return await intake.finish(fault)
