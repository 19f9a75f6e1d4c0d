# SPDX-License-Identifier: GPL-2.0-or-later
"""What an import holds, all of its sources together: an export may come in parts, and one part tells what the others
hold.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from chatgpt_rest.archive import sidecars
from chatgpt_rest.archive.containers import Member, Sources
from chatgpt_rest.archive.members import Kind, asset_id, asset_name, base_name, kind_of, shard_number
from chatgpt_rest.archive.wire import SetAside
from chatgpt_rest.archive.zips import Damaged, refusal, shown
from chatgpt_rest.errors import BadRequest

KEPT_BYTES: Final = 16 * 1024 * 1024
"""A larger file beside the conversations is set aside."""

_GAPS_NAMED: Final = 20  # files, one by one; a longer gap is told by its ends
_FOUND_NAMED: Final = 5
_EXPORTS_OWN: Final = (Kind.CONVERSATIONS, Kind.MANIFEST, Kind.ASSET_NAMES, Kind.LIBRARY, Kind.USER, Kind.KEPT)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class HeldAsset:
    """An asset's bytes. `name` is what it was called when it was sent or made, where that is still known."""

    id: str
    name: str | None
    member: Member


@dataclass(slots=True)
class Inventory:
    """What is to be read, and what is not. `account` and `email` are user.json's."""

    account: str | None = None
    email: str | None = None
    conversations: list[Member] = field(default_factory=list)
    libraries: list[Member] = field(default_factory=list)
    kept: list[Member] = field(default_factory=list)
    assets: list[HeldAsset] = field(default_factory=list)
    ignored: list[Member] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def total_bytes(self) -> int:
        """What there is to read."""
        members = itertools.chain(
            self.conversations, self.libraries, self.kept, (asset.member for asset in self.assets)
        )
        return sum(member.size_bytes for member in members)


def take_inventory(sources: Sources, *, max_asset_bytes: int) -> Inventory:
    """Sort what was opened, and read what tells about the rest.

    Raises BadRequest (`export_refused`) where there are no conversations at all, and where the sources belong to
    several accounts. A file about the others that cannot be understood is set aside, and they are read without it.
    """
    inventory = Inventory(set_aside=list(sources.set_aside))
    by_kind: defaultdict[Kind, list[Member]] = defaultdict(list)
    for member in sources.members:
        by_kind[_kind(member)].append(member)
    inventory.conversations = by_kind[Kind.CONVERSATIONS]
    if not inventory.conversations:
        raise _no_export(sources)
    _read_users(by_kind[Kind.USER], inventory)
    inventory.missing = _missing(sources, by_kind[Kind.MANIFEST], inventory)
    inventory.libraries = by_kind[Kind.LIBRARY]
    inventory.ignored = by_kind[Kind.NOTHING]
    envelopes = _envelopes(sources, inventory.conversations)
    kept, others = [*by_kind[Kind.USER], *by_kind[Kind.KEPT]], [*by_kind[Kind.ASSET], *by_kind[Kind.UNKNOWN]]
    homes = _homes(by_kind)
    for member in by_kind[Kind.JSON]:
        is_kept = member.container not in envelopes and _is_at_home(member, homes)
        (kept if is_kept else others).append(member)
    _keep([*kept, *by_kind[Kind.LIBRARY]], inventory)
    names = _Names(_read(member, sidecars.asset_names, inventory) or {} for member in by_kind[Kind.ASSET_NAMES])
    _take_assets(others, inventory, names=names, envelopes=envelopes, max_bytes=max_asset_bytes)
    return inventory


def _kind(member: Member) -> Kind:
    kind = kind_of(member.name)
    return Kind.CONVERSATIONS if member.is_named and kind in (Kind.JSON, Kind.UNKNOWN) else kind


def _no_export(sources: Sources) -> BadRequest:
    found = [member.place for member in sources.members]
    text = ", ".join(found[:_FOUND_NAMED]) or "nothing"
    more = f" and {len(found) - _FOUND_NAMED} more" if len(found) > _FOUND_NAMED else ""
    trouble = "".join(f"; {shown(aside.place)}: {aside.reason}" for aside in sources.set_aside[:1])
    where = ", ".join(sources.labels)
    return refusal(where, f"no conversations.json, so this is no export of ChatGPT; found was {text}{more}{trouble}")


def _read_users(members: list[Member], inventory: Inventory) -> None:
    """Whose export it is."""
    users: dict[str, str] = {}
    for member in members:
        user = _read(member, sidecars.user, inventory)
        if user is not None:
            users.setdefault(user.id, member.place)
            inventory.email = inventory.email or user.email
    if len(users) > 1:
        (first, place), (second, other) = itertools.islice(users.items(), 2)
        raise refusal(
            f"{place} and {other}",
            f"they belong to two accounts, {shown(first)} and {shown(second)}; import each account's on its own",
        )
    inventory.account = next(iter(users), None)


def _missing(sources: Sources, manifests: list[Member], inventory: Inventory) -> list[str]:
    """What the manifests name and no source holds; without any, the gaps in the numbers of the shards."""
    sizes: defaultdict[str, set[int | None]] = defaultdict(set)  # by last name: a folder around an export says nothing
    for member in sources.members:
        sizes[_plain(member.name)].add(member.size_bytes)
    for _, name in sources.zips:
        sizes[_plain(name)].add(None)
    listed = [each for member in manifests for each in _read(member, sidecars.manifest, inventory) or ()]
    missing: dict[str, None] = {}
    for each in listed:
        held = sizes.get(_plain(each.path), set())
        if not held and kind_of(each.path) is not Kind.NOTHING:
            missing[shown(each.path)] = None
        elif held and None not in held and each.size_bytes not in (None, *held):
            reason = f"it has another size than the {each.size_bytes} bytes that the manifest says; it is read as it is"
            inventory.set_aside.append(SetAside("file", shown(each.path), reason))
    names_shards = any(shard_number(each.path) is not None for each in listed)
    return [*missing, *(() if names_shards else _gaps(sources.members))]


def _gaps(members: Iterable[Member]) -> Iterator[str]:
    numbers = {number for member in members if (number := shard_number(member.name)) is not None}
    for before, number in itertools.pairwise([-1, *sorted(numbers)]):
        names = (f"conversations-{each:03}.json" for each in range(before + 1, number))
        if number - before - 1 <= _GAPS_NAMED:
            yield from names
        else:
            yield f"{next(names)} to conversations-{number - 1:03}.json"


def _envelopes(sources: Sources, conversations: list[Member]) -> set[str]:
    """Containers that only wrap ZIPs: the privacy portal's reports lie in them, and nothing of ChatGPT's."""
    return {container for container, _ in sources.zips} - {member.container for member in conversations}


def _homes(by_kind: Mapping[Kind, list[Member]]) -> set[tuple[str, str]]:
    """The folders, each with its container, that hold an export's own files."""
    return {(member.container, _folder(member)) for kind in _EXPORTS_OWN for member in by_kind.get(kind, ())}


def _is_at_home(member: Member, homes: set[tuple[str, str]]) -> bool:
    """Whether JSON of an unknown name belongs to the export: ChatGPT adds files now and then."""
    return not _folder(member) or (member.container, _folder(member)) in homes


def _keep(members: list[Member], inventory: Inventory) -> None:
    for member in members:
        if member.size_bytes <= KEPT_BYTES:
            inventory.kept.append(member)
        else:
            inventory.set_aside.append(SetAside("file", member.place, f"it is larger than {KEPT_BYTES} bytes"))


class _Names:
    """What the files of assets were called before, by conversation_asset_file_names.json."""

    def __init__(self, listings: Iterable[Mapping[str, str]]) -> None:
        self._names = {asset: name for listing in listings for asset, name in listing.items()}
        count = Counter(self._names.values())
        self._ids = {name: asset for asset, name in self._names.items() if count[name] == 1}

    def id_of(self, member: Member) -> str | None:
        """The id of an asset: as it is listed, or as its own name has it."""
        stem = base_name(member.name).removesuffix(".dat")
        return stem if stem in self._names else asset_id(member.name) or self._ids.get(member.name)

    def name_of(self, asset: str, member: Member) -> str | None:
        name = self._names.get(asset) or asset_name(member.name)
        return sidecars.clean_name(name) if name else None


def _take_assets(
    members: list[Member], inventory: Inventory, *, names: _Names, envelopes: set[str], max_bytes: int
) -> None:
    """Of two files of one asset the first is taken."""
    sizes: dict[str, int] = {}
    for member in members:
        asset = names.id_of(member)
        if asset is None:
            if member.container in envelopes or not member.size_bytes:
                inventory.ignored.append(member)
            else:
                inventory.set_aside.append(SetAside("asset", member.place, "there is no asset's id in its name"))
        elif asset in sizes:
            if sizes[asset] != member.size_bytes:
                reason = "it is not the first file of this asset, and has another size"
                inventory.set_aside.append(SetAside("asset", member.place, reason, id=asset))
        elif member.size_bytes > max_bytes:
            reason = f"it is larger than the {max_bytes} bytes that [archive] max_asset_bytes allows"
            inventory.set_aside.append(SetAside("asset", member.place, reason, id=asset))
        else:
            sizes[asset] = member.size_bytes
            inventory.assets.append(HeldAsset(asset, names.name_of(asset, member), member))


def _read(member: Member, understand: Callable[[bytes], _T], inventory: Inventory) -> _T | None:
    """What a file tells of the others; it is set aside where it cannot be understood."""
    reason = f"it is larger than {KEPT_BYTES} bytes"
    if member.size_bytes <= KEPT_BYTES:
        try:
            return understand(member.read())
        except Damaged as damage:
            reason = str(damage)
        except ValueError:
            reason = "it is not what its name says, and was read past"
    inventory.set_aside.append(SetAside("file", member.place, reason))
    return None


def _folder(member: Member) -> str:
    return member.name.rpartition("/")[0]


def _plain(path: str) -> str:
    """The last name of a path, to compare by: macOS takes letters apart in the names of what it unpacks."""
    return unicodedata.normalize("NFC", base_name(path))
