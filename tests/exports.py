# SPDX-License-Identifier: GPL-2.0-or-later
"""Official exports, generated: every shape and every packaging, with what is known to be odd about real ones, and how
many of what an importer must find in them.

Written after the description of the format alone: nothing of the program is used, so that a mistake of its parser
cannot cancel itself out. The same again from the same arguments.
"""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final, Literal

from tests import export_trees
from tests.export_assets import Naming, Shelf
from tests.export_messages import KINDS, SPRING_2024, Json, Pen, is_hidden
from tests.export_trees import ODDITIES, Shape

Packaging = Literal["single", "sharded", "wrapper", "folder", "parts", "portal", "bare", "one_object"]
Manifest = Literal["dict", "list"]

PACKAGINGS: Final[tuple[Packaging, ...]] = (
    "single", "sharded", "wrapper", "folder", "parts", "portal", "bare", "one_object",
)  # fmt: skip
ALL_ODDITIES: Final = len(ODDITIES)
"""So many conversations hold each oddity and each kind of message."""
SHARD: Final = 10
"""Conversations in a shard; real ones hold a hundred, which would only make the tests larger."""

_PARTS: Final = 3
_KINDS_EACH: Final = 3
_BRANCHED_EACH: Final = 6
_NAME: Final = "conversation_asset_file_names.json"
_SIDE_FILES: Final = {
    "user_settings.json": {"user_id": "user-x", "settings": {"theme": "dark", "beta": [0.1 + 0.2]}},
    "message_feedback.json": [{"id": "1", "conversation_id": "2", "rating": "thumbsUp", "content": "{}"}],
    "shared_conversations.json": [{"id": "s", "conversation_id": "2", "title": None, "is_anonymous": True}],
    "group_chats.json": {"chats": []},
    "shopping.json": [],
    "sora.json": {"generations": []},
    "model_comparisons.json": [],
}


@dataclass(frozen=True)
class Counts:
    """What an importer must find. Every message counts, hidden ones too; `hidden` is how many of them are."""

    conversations: int
    messages: int
    hidden: int
    set_aside: int
    assets: int
    placed: int
    unplaced: int
    missing: int


@dataclass(frozen=True)
class Export:
    """An export that can be written to files. `trees` are its conversations in the full shape."""

    seed: int
    trees: tuple[Json, ...]
    shapes: tuple[Shape, ...]
    spoiled: tuple[bytes, ...]
    """Texts that stand among the conversations and cannot be taken in."""
    shelf: Shelf
    packaging: Packaging
    naming: Naming
    manifest: Manifest | None
    account: str = "user-A1iceSm1thA1iceSm1th0000"
    email: str = "alice@example.org"

    @property
    def conversations(self) -> list[Json]:
        """Each as the files hold it."""
        return [
            export_trees.slimmed(tree) if shape == "slim" else tree
            for tree, shape in zip(self.trees, self.shapes, strict=True)
        ]

    @property
    def is_bare(self) -> bool:
        """It is nothing but JSON of conversations: neither a user nor assets."""
        return self.packaging in {"bare", "one_object"}

    @property
    def counts(self) -> Counts:
        """What an importer that loses nothing finds in what `write` writes."""
        messages = [message for each in self.conversations for message in export_trees.messages(each)]
        here = [asset for asset in self.shelf.assets if asset.content is not None and not self.is_bare]
        placed = sum(asset.is_pointed_to or asset.is_placed_by_library for asset in here)
        pointed_to = sum(asset.is_pointed_to for asset in self.shelf.assets)
        return Counts(
            conversations=len(self.trees),
            messages=len(messages),
            hidden=sum(map(is_hidden, messages)),
            set_aside=len(self.spoiled),
            assets=len(here),
            placed=placed,
            unplaced=len(here) - placed,
            missing=pointed_to - sum(asset.is_pointed_to for asset in here),
        )

    def shaped(self, shape: Shape) -> Export:
        """The same export with every conversation in this shape."""
        return replace(self, shapes=(shape,) * len(self.trees))

    def packed(self, packaging: Packaging, *, manifest: Manifest | None = None) -> Export:
        """The same export, packed another way."""
        return replace(self, packaging=packaging, manifest=manifest)

    def later(self) -> Export:
        """What the same account exports later: every third conversation went on, and two are new."""
        random = Random(f"{self.seed} later")
        pen = Pen(random, copy.deepcopy(self.shelf), SPRING_2024 + 400 * 86_400)
        trees = [export_trees.go_on(pen, tree) if number % 3 == 0 else tree for number, tree in enumerate(self.trees)]
        trees += [export_trees.conversation(pen, random.sample(KINDS, _KINDS_EACH)) for _ in range(2)]
        new_shapes = random.choices(self.shapes or ("full",), k=2)
        return replace(self, trees=tuple(trees), shapes=(*self.shapes, *new_shapes), shelf=pen.shelf)

    def write(self, folder: Path) -> list[Path]:
        """Write the files and answer what an importer is to be given."""
        folder.mkdir(parents=True, exist_ok=True)
        match self.packaging:
            case "bare":
                return [_written(folder / "my chats.json", b"\xef\xbb\xbf" + _array(self._texts()))]
            case "one_object":
                texts = enumerate(self._texts())
                return [_written(folder / f"{number:03}.json", text) for number, text in texts]
            case "folder":
                for name, content in self._members():
                    _written(folder / "export" / name, content)
                return [folder / "export"]
            case "single" | "sharded" | "wrapper":
                return [_written(folder / "export.zip", _zipped(self._members()))]
            case "parts":
                return [
                    _written(folder / f"export-part-{number}.zip", _zipped(part))
                    for number, part in enumerate(self._parts(), 1)
                ]
            case "portal":
                return [_written(folder / "portal.zip", _zipped(self._portal()))]

    def _texts(self) -> list[bytes]:
        """Each conversation as JSON, and among them what is spoiled."""
        random = Random(f"{self.seed} texts")
        texts = [_dumped(conversation, random) for conversation in self.conversations]
        for text in self.spoiled:
            texts.insert(random.randint(0, len(texts)), text)
        return texts

    def _members(self) -> Iterator[tuple[str, bytes]]:
        sheets = dict(self._sheets())
        rest = {
            "user.json": _dump(
                {"id": self.account, "email": self.email, "chatgpt_plus_user": True, "birth_year": 1984}
            ),
            _NAME: _dump(self.shelf.names()),
            "library_files.json": _dump(self.shelf.library),
            **self._side_files(),
            "chat.html": b"<html><body>what conversations.json holds</body></html>",
            **dict(self.shelf.members(self.naming)),
        }
        if self.naming == "old":
            del rest[_NAME], rest["library_files.json"]
        if self.manifest is not None:
            yield "export_manifest.json", self._manifest(sheets, {**sheets, **rest})
        yield from sheets.items()
        yield from rest.items()

    def _side_files(self) -> dict[str, bytes]:
        return {name: _dump(value) for name, value in _SIDE_FILES.items()}

    def _sheets(self) -> Iterator[tuple[str, bytes]]:
        """The files of conversations."""
        texts = self._texts()
        match self.packaging:
            case "single":
                yield "conversations.json", _array(texts)
            case "wrapper":
                yield "conversations.json", b'{"version": [1], "conversations": %s, "more": {}}' % _array(texts)
            case _:
                for number in range(0, max(1, len(texts)), SHARD):
                    yield f"conversations-{number // SHARD:03}.json", _array(texts[number : number + SHARD])

    def _manifest(self, sheets: Mapping[str, bytes], files: Mapping[str, bytes]) -> bytes:
        is_sharded = "conversations.json" not in sheets
        logical: list[dict[str, Any]] | dict[str, Any] = (
            {"conversations.json": {"files": list(sheets), "sharded": is_sharded}}
            if self.manifest == "dict"
            else [{"name": "conversations.json", "files": list(sheets)}]
        )
        return _dump(
            {
                "version": 1,
                "manifest_file": "export_manifest.json",
                "export_files": [{"path": name, "size_bytes": len(content)} for name, content in files.items()],
                "logical_files": logical,
            }
        )

    def _parts(self) -> list[list[tuple[str, bytes]]]:
        """Part 1 holds the manifest, which names the files of all of them."""
        parts: list[list[tuple[str, bytes]]] = [[] for _ in range(_PARTS)]
        for number, member in enumerate(self._members()):
            is_first = member[0] in {"export_manifest.json", "user.json"}
            parts[0 if is_first else number % _PARTS].append(member)
        return parts

    def _portal(self) -> Iterator[tuple[str, bytes]]:
        yield "report.html", b"<html>what you asked for</html>"
        yield "Financial/Payments.csv", b"date,amount\n2026-01-01,20\n"
        for number, part in enumerate(self._parts(), 1):
            name = f"Conversations__1f2e3d4c5b6a7988-chatgpt-{number:04}.zip"
            yield f"User Online Activity/{name}", _zipped(part)


def make_export(
    seed: int,
    *,
    conversations: int = 12,
    shape: Literal["full", "slim", "mixed"] = "full",
    packaging: Packaging = "single",
    naming: Naming = "new",
    manifest: Manifest | None = None,
    oddities: bool = True,
    spoiled: bool = False,
) -> Export:
    """An export of so many conversations; `ALL_ODDITIES` of them hold everything there is. With `spoiled` there are
    also things among them that cannot be taken in.
    """
    random = Random(seed)
    shelf = Shelf(random)
    pen = Pen(random, shelf)
    trees: list[Json] = []
    for number in range(conversations):
        kinds = [KINDS[(seed + number * _KINDS_EACH + each) % len(KINDS)] for each in range(_KINDS_EACH)]
        is_branched = oddities and number % _BRANCHED_EACH == 1
        tree = _branch_of(pen, trees[-1]) if is_branched else export_trees.conversation(pen, kinds)
        if oddities:
            ODDITIES[(seed + number) % len(ODDITIES)](pen, tree)
        trees.append(tree)
    written = json.dumps(trees)
    for asset in shelf.assets:
        asset.is_pointed_to = asset.id in written  # an oddity may have taken its message away
    if trees and naming == "new":
        _catalogue_some(shelf, trees[-1])
    shelf.put("png")
    shapes: list[Shape] = [shape if shape != "mixed" else random.choice(("full", "slim")) for _ in trees]
    texts = tuple(_spoiled(pen)) if spoiled else ()
    return Export(seed, tuple(trees), tuple(shapes), texts, shelf, packaging, naming, manifest)


def _branch_of(pen: Pen, origin: Json) -> Json:
    """A conversation that was branched from another one: the messages that both have bear the same ids."""
    mapping = copy.deepcopy(origin["mapping"])
    branch = export_trees.conversation(pen, [KINDS[0]])
    for key, node in branch["mapping"].items():
        mapping[key] = node
    return {**branch, "mapping": mapping}


def _catalogue_some(shelf: Shelf, conversation: Json) -> None:
    """Pictures that only library_files.json knows of: two can be placed by it, one cannot."""
    name = conversation.get("conversation_id") or conversation["id"]
    node = next(iter(conversation["mapping"]), None)
    for number, told in enumerate(({"conversation": name, "message": node}, {"conversation": name, "message": None})):
        shelf.catalogue(shelf.put("webp" if number else "png", generated=True), **told)
    shelf.catalogue(shelf.put("png", generated=True), conversation=None, message=None)


def _spoiled(pen: Pen) -> Iterator[bytes]:
    def one(**members: object) -> bytes:
        return _dump({**export_trees.conversation(pen, KINDS[:1]), **members})

    nameless = export_trees.conversation(pen, KINDS[:1])
    del nameless["id"], nameless["conversation_id"]
    node = pen.text("user")
    yield _dump(nameless)
    yield from (b"null", b'"a text"', b"[]", b"{}")
    yield one(id="../../etc/passwd", conversation_id="../../etc/passwd")
    yield one(mapping=None)
    yield one(mapping={"half \ud83d": {"id": "half", "message": node, "parent": None, "children": []}})
    yield one(update_time=float("nan"))
    yield one(title="@").replace(b'"@"', b"-Infinity")
    yield one(title="@").replace(b'"@"', b"1e999")
    yield one(title="@").replace(b'"@"', b"9" * 5_000)
    yield one(title="@").replace(b'"@"', b'"\xff\xfe"')
    yield one(title="@").replace(b'"@"', b"[" * 300 + b"]" * 300)
    yield one(title="@").replace(b'"@"', b"[" * 100_000 + b"]" * 100_000)


# ------------------------------------------------------------------------------------------------------------- files


def _dump(value: object) -> bytes:
    return json.dumps(value).encode()


def _dumped(value: object, random: Random) -> bytes:
    """As JSON, in one of the ways in which programs lay it out."""
    indent, separators = random.choice(((None, (",", ":")), (None, (", ", ": ")), (1, (",", ": "))))
    try:
        return json.dumps(value, indent=indent, separators=separators, ensure_ascii=random.random() < 0.5).encode()
    except UnicodeEncodeError:  # half a surrogate pair can only be written as an escape
        return json.dumps(value, indent=indent, separators=separators).encode()


def _array(texts: Sequence[bytes]) -> bytes:
    return b"[" + b",\n ".join(texts) + b"]\n"


def _zipped(members: Iterable[tuple[str, bytes]]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members:
            entry = zipfile.ZipInfo(name, (2026, 4, 1, 12, 30, 0))
            archive.writestr(entry, content, zipfile.ZIP_STORED if name.endswith(".zip") else zipfile.ZIP_DEFLATED)
    return written.getvalue()


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
