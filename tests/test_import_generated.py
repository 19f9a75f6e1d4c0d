# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports of any shape, and exports in which any bytes are wrong: an import is refused before anything is written, or
its ledger adds up and says what was wrong, and each conversation is here whole or not at all.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

from hypothesis import event, given, settings
from hypothesis import strategies as st

from chatgpt_rest.archive.ledger import Ledger
from chatgpt_rest.errors import BadRequest
from tests.archives import (
    Archive,
    adds_up,
    archive_in,
    by_id,
    contains,
    counted,
    in_mirror,
    messages_of,
    total_messages,
)
from tests.export_trees import Shape
from tests.exports import PACKAGINGS, Export, make_export

FIRST_SEEN: Final = "could not be read:"
"""So says the reading process where it met what nobody has thought of."""


@dataclass(frozen=True)
class Change:
    """One place of a file that is not as it was: so many bytes are replaced, `at` a share of its length."""

    at: float
    removed: int
    inserted: bytes

    def of(self, content: bytes) -> tuple[bytes, int]:
        """What becomes of the content, and how much of its beginning is as it was."""
        start = round(self.at * len(content))
        return content[:start] + self.inserted + content[start + self.removed :], start


exports = st.builds(
    make_export,
    seed=st.integers(0, 2**32),
    conversations=st.integers(0, 8),
    shape=st.sampled_from([*get_args(Shape), "mixed"]),
    packaging=st.sampled_from(PACKAGINGS),
    naming=st.sampled_from(["old", "new"]),
    manifest=st.sampled_from([None, "dict", "list"]),
)
changes = st.builds(
    Change,
    at=st.floats(0, 1),
    removed=st.sampled_from([0, 1, 1, 4, 100, 10**9]),
    inserted=st.one_of(
        st.binary(max_size=4),
        st.sampled_from(
            [b"", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\xff", b"null", b'{"id":', b"NaN", b"\0"]
        ),
        st.sampled_from([b"[" * 3_000, b'{"a":' * 3_000, b"9" * 5_000, b'"\\ud800"', b"PK\3\4", b"PK\5\6", b"PK\1\2"]),
    ),
)


async def take(archive: Archive, paths: Sequence[Path], export: Export) -> Ledger | None:
    """Import, and see to it that the ledger is true; None where it was refused, which must leave nothing."""
    before = archive.everything()
    ledger, refusal = None, ""
    try:
        ledger = await archive.take(paths, export.account)
    except BadRequest as error:
        refusal = error.text
    if ledger is None:
        event("refused")
        assert FIRST_SEEN not in refusal
        assert archive.everything() == before
        return None
    assert ledger.error is None
    assert adds_up(ledger)
    assert ledger.messages.imported == total_messages(archive)
    return ledger


@settings(max_examples=500 if settings.get_current_profile_name() == "soak" else 12)
@given(export=exports, is_spoiled=st.booleans())
async def test_an_export_of_any_shape_comes_in_whole(export: Export, is_spoiled: bool) -> None:
    """What the generator wrote is what the ledger counts and the mirror holds, and the second time nothing changes."""
    if is_spoiled and not export.is_bare:
        export = replace(export, spoiled=make_export(0, spoiled=True).spoiled)
    with tempfile.TemporaryDirectory() as folder:
        async with archive_in(Path(folder)) as archive:
            paths = export.write(Path(folder) / "export")
            ledger = await take(archive, paths, export)
            if ledger is None:
                assert not paths or not export.trees
                return
            assert counted(ledger) == export.counts
            for name, tree in by_id(export.conversations).items():
                assert contains(in_mirror(archive)[name], messages_of(tree))
            before = archive.everything()
            await archive.take(paths, export.account)
            assert archive.everything() == before


@settings(max_examples=500 if settings.get_current_profile_name() == "soak" else 20)
@given(seed=st.integers(0, 2**32), changed=st.lists(changes, min_size=1, max_size=3))
async def test_json_with_wrong_bytes_keeps_what_stands_before_them(seed: int, changed: list[Change]) -> None:
    """Everything before the first wrong byte comes in whole, the rest as far as it can be understood."""
    export = make_export(seed, conversations=5, packaging="bare")
    with tempfile.TemporaryDirectory() as folder:
        (path,) = export.write(Path(folder) / "export")
        content = path.read_bytes()
        intact = len(content)
        for change in changed:
            content, start = change.of(content)
            intact = min(intact, start)
        path.write_bytes(content)
        async with archive_in(Path(folder)) as archive:
            ledger = await take(archive, [path], export)
            if ledger is None:
                return
            whole = before(content[:intact])
            event(f"{len(whole)} of {len(export.trees)} conversations are as they were")
            for name, tree in whole.items():
                assert contains(in_mirror(archive)[name], messages_of(tree))


@settings(max_examples=500 if settings.get_current_profile_name() == "soak" else 20)
@given(
    seed=st.integers(0, 2**32),
    packaging=st.sampled_from(["single", "sharded", "parts", "portal"]),
    which=st.integers(0, 2),
    changed=changes,
)
async def test_a_zip_with_wrong_bytes_is_never_taken_for_right(
    seed: int, packaging: Any, which: int, changed: Change
) -> None:
    """It is refused, or what is wrong with it is named, or nothing was lost by it."""
    export = make_export(seed, conversations=12, packaging=packaging, manifest="dict")
    with tempfile.TemporaryDirectory() as folder:
        paths = export.write(Path(folder) / "export")
        path = paths[which % len(paths)]
        content, _ = changed.of(path.read_bytes())
        path.write_bytes(content)
        async with archive_in(Path(folder)) as archive:
            ledger = await take(archive, paths, export)
            if ledger is None:
                return
            if ledger.set_aside or ledger.files.missing:
                event("named")
                return
            assert counted(ledger) == export.counts
            for name, tree in by_id(export.conversations).items():
                assert contains(in_mirror(archive)[name], messages_of(tree))


def before(intact: bytes) -> dict[str, Any]:
    """The conversations that are whole in the intact beginning of a file, by their ids."""
    found: dict[str, Any] = {}
    text = intact.decode(errors="ignore").lstrip("\ufeff[ \n,")
    while text:
        try:
            conversation, end = json.JSONDecoder().raw_decode(text)
        except ValueError:
            break
        found.update(by_id([conversation]))
        text = text[end:].lstrip(",\n ")
    return found
