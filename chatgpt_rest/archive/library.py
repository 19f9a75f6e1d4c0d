# SPDX-License-Identifier: GPL-2.0-or-later
"""An account as a folder of files that people read, one a conversation, with its images and documents beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chatgpt_rest.archive import names
from chatgpt_rest.archive.attachments import assets_of, attached_files, attachments, with_placed
from chatgpt_rest.archive.forms import Form
from chatgpt_rest.archive.partial import disk_faults
from chatgpt_rest.archive.shelf import ASSETS, Outcome, Shelf, open_shelf
from chatgpt_rest.mirror import AccountMirror, Asset, AssetFiles, Standing
from chatgpt_rest.model import Conversation

_CHUNK_BYTES: Final = 1024 * 1024


@dataclass
class Shelving:
    """What an export did to the folder. The lists are names of files: `edited` those that somebody changed and that
    were left so, `gone` those whose conversation is not in the mirror any more.
    """

    written: int = 0
    unchanged: int = 0
    edited: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    """Of those edited, the ones whose current version now lies beside them."""
    gone: list[str] = field(default_factory=list)
    assets: int = 0
    lost: int = 0
    """Assets that the mirror knows, and whose bytes it has not."""


async def write_library(
    folder: Path,
    conversations: AsyncIterator[Conversation],
    *,
    mirror: AccountMirror,
    files: AssetFiles,
    form: Form,
    on_bytes: Callable[[int], None],
) -> Shelving:
    """Bring `folder` up to date with these conversations of the account. `on_bytes` is told how much was rendered or
    copied, again and again. Raises Conflict, StorageFailed, MirrorError; each file is whole at any time.
    """
    done = Shelving()

    def link(asset: Asset) -> str | None:
        return _place(asset) if is_beside(asset) else None

    def is_beside(asset: Asset) -> bool:
        return asset.size_bytes > form.embeds_up_to_bytes

    with open_shelf(folder, account=mirror.account, suffix=form.suffix) as shelf:
        async for tree in conversations:
            # Read after the tree: whatever that points to is among them.
            attached = await attachments(mirror, tree.id)
            content = form.render(with_placed(tree, attached), attached=attached_files(attached, files, link=link))
            with disk_faults(folder):
                _count(done, shelf.put(tree, content), shelf.name_of(tree.id))
            on_bytes(len(content))
            beside = filter(is_beside, assets_of(attached))
            await _copy_assets(shelf, beside, files, done, on_bytes)
        for identifier, name in shelf.not_met():
            if await mirror.conversations.standing(identifier) in {Standing.UNKNOWN, Standing.DELETED}:
                done.gone.append(name)
    return done


def _count(done: Shelving, outcome: Outcome, name: str) -> None:
    match outcome:
        case Outcome.WRITTEN:
            done.written += 1
        case Outcome.UNCHANGED:
            done.unchanged += 1
        case Outcome.EDITED:
            done.edited.append(name)
        case Outcome.BESIDE:
            done.edited.append(name)
            done.beside.append(name)


async def _copy_assets(
    shelf: Shelf, assets: Iterable[Asset], files: AssetFiles, done: Shelving, on_bytes: Callable[[int], None]
) -> None:
    for asset in assets:
        name = names.asset_name(asset.id, asset.media_type, asset.name)
        with disk_faults(shelf.folder):
            if shelf.has_asset(name, size_bytes=asset.size_bytes):
                continue
            try:
                source = files.path(asset.digest).open("rb")
            except FileNotFoundError:
                done.lost += 1
                continue
            with source, shelf.new_asset(name) as copy:
                while chunk := source.read(_CHUNK_BYTES):
                    copy.write(chunk)
                    on_bytes(len(chunk))
                    await asyncio.sleep(0)  # a signal is heard in the middle of gigabytes, too
        done.assets += 1


def _place(asset: Asset) -> str:
    return f"{ASSETS}/{names.asset_name(asset.id, asset.media_type, asset.name)}"
