# SPDX-License-Identifier: GPL-2.0-or-later
"""The assets of an account: which there are, what points to them, and who may know."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import pytest

from chatgpt_rest.archive.wire import Placement
from chatgpt_rest.clock import DAY
from chatgpt_rest.errors import NotFound
from chatgpt_rest.incoming import Pointer
from chatgpt_rest.mirror import AccountMirror, Asset, AssetCounts, Attached, KeptFile, Mirror
from tests.house import NOON
from tests.incoming import incoming, take
from tests.rows import rows
from tests.shapes import message

DIGEST: Final = bytes(range(32))
KEPT: Final = KeptFile(DIGEST, 4, "image/png")
CUP: Final = Asset("file-cup", DIGEST, 4, "image/png", "cup.png")


async def add(mirror: AccountMirror, *names: str) -> None:
    """Assets come in, each called after its id."""
    for name in names:
        await mirror.assets.add(f"file-{name}", KEPT, name=f"{name}.png", member=f"file-{name}.dat")


async def point(
    mirror: AccountMirror, *names: str, conversation: str = "c", nodes: Sequence[str] = ("n0", "n1")
) -> None:
    """A conversation comes in, each of whose messages points to one of these."""
    pointers = [Pointer(node, f"file-{name}", None, None) for node, name in zip(nodes, names, strict=False)]
    path = [message(name) for name in ("One.", "Two.")]
    await take(mirror, incoming(*path, name=conversation, account=mirror.account, pointers=pointers))


async def points(mirror: AccountMirror, conversation: str = "c") -> list[tuple[str, str]]:
    """`(node, asset)` of what a conversation's messages point to."""
    return [(each.node, each.id) for each in await mirror.assets.of_conversation(conversation)]


# --------------------------------------------------------------------------------------------------------------- having


async def test_an_asset_is_found_by_its_id(alice: AccountMirror, bob: AccountMirror) -> None:
    """By its own account only."""
    await add(alice, "cup")
    assert await alice.assets.find("file-cup") == CUP
    assert await alice.assets.all() == [CUP]
    with pytest.raises(NotFound, match="no such asset"):
        await bob.assets.find("file-cup")
    assert await bob.assets.all() == []


async def test_an_asset_without_a_name_has_that_of_a_message(alice: AccountMirror, bob: AccountMirror) -> None:
    """The first that gives it one, of a conversation that is not deleted; its own name comes before that."""
    await alice.assets.add("file-cup", KEPT, name=None, member=None)
    assert (await alice.assets.find("file-cup")).name is None
    await take(bob, incoming(message(), name="b", account="bob", pointers=[Pointer("n0", "file-cup", "bob.png")]))
    pointers = [Pointer("n0", "file-cup", None), Pointer("n1", "file-cup", "mine.png")]
    await take(alice, incoming(message(), message(), pointers=pointers))
    await take(alice, incoming(message(), name="a", pointers=[Pointer("n0", "file-cup", "buried.png")]))
    await alice.deletions.bury("a")
    assert (await alice.assets.find("file-cup")).name == "mine.png"
    await alice.assets.add("file-cup", KEPT, name="cup.png", member=None)
    assert await alice.assets.find("file-cup") == CUP


async def bring(mirror: Mirror, of: AccountMirror, content: bytes, *, is_placed: bool = False) -> str:
    """An export brings the cup with these bytes."""
    async with mirror.files.incoming() as file:
        await file.write(content)
        kept = await file.keep()
        return await of.assets.add("file-cup", kept, name=None, member=None, is_placed=is_placed)


async def cup(mirror: Mirror, of: AccountMirror) -> bytes:
    """What is here of it."""
    return mirror.files.path((await of.assets.find("file-cup")).digest).read_bytes()


async def test_the_same_asset_again_is_no_news(alice: AccountMirror) -> None:
    """A name is not lost to a file that has none."""
    assert await alice.assets.add("file-cup", KEPT, name="cup.png", member="a.dat") == "stored"
    assert await alice.assets.add("file-cup", KEPT, name=None, member="b.dat") == "unchanged"
    assert await alice.assets.find("file-cup") == CUP


@pytest.mark.parametrize("other", [b"", b"other"], ids=["empty", "another"])
async def test_what_is_here_whole_is_replaced_by_nothing(mirror: Mirror, alice: AccountMirror, other: bytes) -> None:
    """Of the other file nothing is left, and a purge takes nothing away."""
    assert await bring(mirror, alice, b"good") == "stored"
    assert await alice.assets.foresee("file-cup", len(other), is_placed=False) == "another"
    assert await bring(mirror, alice, other) == "another"
    assert not mirror.files.path(sha256(other).digest()).exists()
    await mirror.purge_deleted(before=NOON)
    assert await cup(mirror, alice) == b"good"


@pytest.mark.parametrize("damage", [None, b"goo"], ids=["lost", "damaged"])
async def test_a_lost_file_is_replaced(mirror: Mirror, alice: AccountMirror, damage: bytes | None) -> None:
    """But not by an empty one."""
    await bring(mirror, alice, b"good")
    path = mirror.files.path((await alice.assets.find("file-cup")).digest)
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    assert await bring(mirror, alice, b"") == "another"
    assert await alice.assets.foresee("file-cup", 5, is_placed=False) == "stored"
    assert await bring(mirror, alice, b"other") == "stored"
    assert await cup(mirror, alice) == b"other"


async def test_an_empty_file_is_replaced(mirror: Mirror, alice: AccountMirror) -> None:
    """It was never the asset."""
    await bring(mirror, alice, b"")
    assert await bring(mirror, alice, b"good") == "stored"
    assert await cup(mirror, alice) == b"good"


async def test_what_nothing_points_to_any_more_does_not_come_in(mirror: Mirror, alice: AccountMirror) -> None:
    """Where a conversation had shown it; not even its bytes, unless they are another asset's too."""
    assert await bring(mirror, alice, b"secret", is_placed=True) == "left_deleted"
    assert await alice.assets.foresee("file-cup", 6, is_placed=True) == "left_deleted"
    assert not mirror.files.path(sha256(b"secret").digest()).exists()
    await point(alice, "cup")
    assert await bring(mirror, alice, b"secret", is_placed=True) == "stored"


async def test_missing_assets_of_the_whole_account_are_counted(alice: AccountMirror, bob: AccountMirror) -> None:
    """Each once, none of deleted conversations, none of another account's."""
    await add(alice, "cup")
    await point(alice, "cup", "saucer")
    await point(alice, "saucer", "pot", conversation="d")
    await point(alice, "buried", conversation="e")
    await point(bob, "spoon")
    await alice.deletions.bury("e")
    assert await alice.assets.missing() == 2


async def test_a_conversation_tells_what_its_messages_point_to(alice: AccountMirror, bob: AccountMirror) -> None:
    """In the order of the messages, whether it is here or not."""
    await add(alice, "cup")
    await add(bob, "saucer")
    pointers = [Pointer("n1", "file-cup", "mine.png", "image/jpeg"), Pointer("n0", "file-saucer")]
    await take(alice, incoming(message(), message(), pointers=pointers))
    assert await alice.assets.of_conversation("c") == [
        Attached("n0", "file-saucer", None, None, None),
        Attached("n1", "file-cup", "mine.png", "image/jpeg", CUP),
    ]
    assert await bob.assets.of_conversation("c") == []


async def test_what_only_deleted_conversations_show_is_not_found(mirror: Mirror, alice: AccountMirror) -> None:
    """Until one of them is brought back; what nothing points to is."""
    await add(alice, "cup", "unplaced")
    for name in ("c", "d"):
        await point(alice, "cup", conversation=name)
        await alice.deletions.bury(name)
    with pytest.raises(NotFound):
        await alice.assets.find("file-cup")
    assert (await alice.assets.find("file-unplaced")).name == "unplaced.png"
    await alice.deletions.undelete("d")
    assert await alice.assets.find("file-cup") == CUP


async def test_assets_are_placed_unplaced_or_missing(alice: AccountMirror, bob: AccountMirror) -> None:
    """A deleted conversation places nothing, and misses nothing; another account's do not count."""
    await add(alice, "cup", "unplaced", "buried")
    await add(bob, "saucer")
    await point(alice, "cup", "saucer")
    await point(bob, "unplaced")
    await point(alice, "buried", "buried-missing", conversation="d")
    await alice.deletions.bury("d")
    names = ["cup", "saucer", "unplaced", "buried", "buried-missing", "unheard-of"]
    standing = await alice.assets.standing([f"file-{name}" for name in names])
    assert standing == AssetCounts(placed=1, unplaced=2, missing=1)
    assert await alice.assets.standing([]) == AssetCounts(0, 0, 0)


async def test_a_conversation_rendered_without_an_asset_is_not_believed(alice: AccountMirror) -> None:
    """Once that has come, or was placed in it."""
    await point(alice, "cup")
    cache = alice.assets._cache
    before = cache.generation("alice")
    await add(alice, "cup")
    assert cache.generation("alice") == before + 1
    await alice.imports.place([Placement("file-saucer", "c", None, None, None)])
    assert cache.generation("alice") == before + 2


# -------------------------------------------------------------------------------------------------------------- placing


@pytest.mark.parametrize(
    ("conversation", "node", "expected"),
    [
        pytest.param("c", "n1", [("n1", "file-cup")], id="both"),
        pytest.param(None, "n1", [("n1", "file-cup")], id="the message alone"),
        pytest.param("c", None, [("", "file-cup")], id="the conversation alone"),
        pytest.param("c", "elsewhere", [("", "file-cup")], id="a message that is not in it"),
        pytest.param("elsewhere", "n1", [], id="a conversation that is not here"),
        pytest.param(None, "elsewhere", [], id="a message that is not here"),
        pytest.param(None, None, [], id="neither"),
    ],
)
async def test_an_asset_is_placed_by_what_is_known(
    alice: AccountMirror, conversation: str | None, node: str | None, expected: list[tuple[str, str]]
) -> None:
    """By message where that is here, else by conversation; what names nothing that is here stays unplaced."""
    await point(alice)
    await point(alice, conversation="other", nodes=())
    placement = Placement("file-cup", conversation, node, "cup.png", "image/png")
    for _ in range(2):
        assert await alice.imports.place([placement]) == set()
        assert await points(alice) == expected


async def test_a_message_of_two_conversations_places_an_asset_in_both(alice: AccountMirror) -> None:
    """One was branched off the other."""
    for name in ("c", "d"):
        await point(alice, conversation=name)
    await alice.imports.place([Placement("file-cup", None, "n1", None, None)])
    assert (await points(alice), await points(alice, "d")) == ([("n1", "file-cup")], [("n1", "file-cup")])


async def test_what_a_message_shows_is_not_placed_beside_it(alice: AccountMirror) -> None:
    """The conversation alone says no more than the message; many come at once."""
    await point(alice, "cup")
    await alice.imports.place(
        [Placement("file-cup", "c", None, None, None), Placement("file-pot", "c", None, None, None)]
    )
    assert await points(alice) == [("n0", "file-cup"), ("", "file-pot")]


async def test_nobody_places_anything_in_another_accounts_conversation(
    mirror: Mirror, alice: AccountMirror, bob: AccountMirror
) -> None:
    """By no way."""
    await point(alice)
    for conversation, node in ((None, "n0"), ("c", None), ("c", "n0")):
        await bob.imports.place([Placement("file-cup", conversation, node, None, None)])
    assert rows(mirror.path, "select * from attachment") == []


async def test_what_belongs_to_a_purged_conversation_is_told(mirror: Mirror, alice: AccountMirror) -> None:
    """And placed nowhere; in one that is deleted and can come back, it is placed."""
    await point(alice)
    await alice.deletions.bury("c")
    placement = Placement("file-cup", "c", "n0", None, None)
    assert await alice.imports.place([placement]) == set()
    assert await points(alice) == [("n0", "file-cup")]
    await mirror.purge_deleted(before=NOON + DAY)
    assert await alice.imports.place([placement]) == {"file-cup"}
    assert await points(alice) == []
