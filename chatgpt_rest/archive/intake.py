# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames into the mirror. Each batch is one transaction and each asset one file, and what is here already is left as it
is: an import that broke off is finished by running it again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from typing import Final

from chatgpt_rest.archive import wire
from chatgpt_rest.archive.ledger import Fault, Ledger, Tally
from chatgpt_rest.clock import SECOND, Clock
from chatgpt_rest.errors import BadRequest, MirrorError, StorageFailed
from chatgpt_rest.mirror import AccountMirror, Added, AssetFiles, IncomingFile

_PLACEMENTS: Final = 500  # written in one transaction
_POINTED: Final = 100_000
"""Ids of assets remembered; of an export that points to more, what is missing is told of the whole account."""
_ANOTHER: Final = "another file of this id is here already, which stays"


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
        self._pointed: set[str] = set()  # that messages and the library of this export point to
        self._shown: set[str] = set()  # that its messages point to
        self._purged: set[str] = set()  # that conversations of it point to which are purged here
        self._is_beyond = False  # they are more than can be remembered
        self._kept: set[str] = set()  # names of other files

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
            shown = {pointer.asset for pointer in incoming.pointers}
            self._remember(self._pointed, shown)
            self._remember(self._shown, shown)
            self._remember(self._purged, taken.purged_assets)

    async def _place(self) -> None:
        placements, self._placements = self._placements, []
        self._remember(self._pointed, {each.asset for each in placements if each.conversation or each.node})
        if not self._dry_run:
            self._remember(self._purged, await self._mirror.imports.place(placements))

    def _remember(self, those: set[str], assets: Collection[str]) -> None:
        if len(those) + len(assets) <= _POINTED:
            those.update(assets)
        else:
            self._is_beyond = True

    async def _keep_file(self, frame: wire.ExportFile) -> None:
        name: str | None = frame.name
        if not self._dry_run:
            name = await self._mirror.imports.keep_file(
                frame.name, frame.content, modified_at=frame.modified_at, beside=self._kept
            )
        if name is not None:
            self._kept.add(name)
        self.tally.files["ignored" if name is None else "kept"] += 1

    def _note(self, frame: wire.Opened | wire.SetAside | wire.Ignored | wire.Ended) -> None:
        match frame:
            case wire.Opened():
                self.tally.missing_files = frame.missing
                self.tally.files["missing_total"] = frame.missing_total
            case wire.SetAside():
                self.tally.put_aside(frame)
            case wire.Ignored():
                self.tally.files["ignored"] += 1
            case wire.Ended():
                self._is_ended = True

    # ----------------------------------------------------------------------------------------------------- assets

    async def _begin_asset(self, frame: wire.AssetBegins) -> None:
        await self.discard()
        self._asset = await _Asset.begin(frame, None if self._dry_run else self._files)

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
            if outcome != "left_deleted":
                self._assets.add(asset.id)
            if outcome == "another":
                self.tally.put_aside(wire.SetAside("asset", asset.member, _ANOTHER, id=asset.id, title=asset.name))
            else:
                self.tally.took_asset(outcome)
        await self.discard()

    async def _keep(self, asset: _Asset) -> Added:
        if asset.file is None:
            is_placed = asset.id in self._purged
            return await self._mirror.assets.foresee(asset.id, asset.size_bytes, is_placed=is_placed)
        kept = await asset.file.keep()
        is_placed = asset.id in self._purged or asset.id in self._shown  # a purge may come between that and this
        return await self._mirror.assets.add(asset.id, kept, name=asset.name, member=asset.member, is_placed=is_placed)

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
            missing = await self._mirror.assets.missing() if self._is_beyond else standing.missing
            self.tally.assets.update(placed=standing.placed, unplaced=standing.unplaced, missing=missing)


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
