# SPDX-License-Identifier: GPL-2.0-or-later
"""A conversation as one HTML file that holds all it needs: it opens with no network, runs nothing, and asks nobody.

Pictures and recordings lie in it as `data:` URIs, as far as there is room; a Content-Security-Policy forbids the rest.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chatgpt_rest import rendering
from chatgpt_rest.chatgpt_json import UNTITLED
from chatgpt_rest.chatgpt_markers import Footnote, http_url
from chatgpt_rest.chatgpt_passages import Asset, folded
from chatgpt_rest.chatgpt_text import AttachedFile, transcript
from chatgpt_rest.clock import SECOND, iso
from chatgpt_rest.model import Conversation

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_EMBEDDED_BYTES: Final = 100 * 1024 * 1024
"""All files of a page together, as often as it shows them. What goes beyond is named, and linked where it can be."""
LARGEST_EMBEDDED_BYTES: Final = 25 * 1024 * 1024

_TEMPLATES: Final = Path(__file__).parent / "templates"
# What a browser shows and never runs. SVG is missing: opened by itself it can.
_SHOWN: Final[Mapping[str, str]] = {
    **dict.fromkeys(("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp"), "image"),
    **dict.fromkeys(("audio/mpeg", "audio/wav", "audio/x-wav", "audio/ogg", "audio/flac", "audio/aac"), "audio"),
    **dict.fromkeys(("audio/mp4", "audio/webm"), "audio"),
    **dict.fromkeys(("video/mp4", "video/webm", "video/ogg", "video/quicktime"), "video"),
}


@dataclass(frozen=True, slots=True)
class _Picture:
    """An asset as the page shows it: `kind` is how, `source` what stands for its bytes where they are in the page, and
    `link` where it can be had otherwise.
    """

    kind: str
    name: str
    description: str
    source: str | None
    link: str | None


def render(
    tree: Conversation, *, attached: Mapping[str, AttachedFile], most_embedded_bytes: int = MOST_EMBEDDED_BYTES
) -> bytes:
    """The current branch of a conversation as a page. `attached` are its files by asset id: those with a path are
    embedded, as far as there is room.
    """
    album = _Album(attached, most_embedded_bytes)
    said = [(each, [*folded(each.passages)]) for each in transcript(tree)]
    page = (
        _templates()
        .get_template("conversation.html")
        .generate(
            title=(tree.title or "").strip() or UNTITLED,
            tree=tree,
            said=said,
            picture=album.picture,
            code_colours=rendering.stylesheet(),
        )
    )
    # Piece by piece: for what looks through a text in one go, no other thread can do anything.
    text = b"".join(rendering.displayable(piece).encode() for piece in page)
    return b"".join(album.filled_in(text))


class _Album:
    """The files of one page, embedded as long as there is room. The page is laid out with words in their place: nothing
    that looks through text goes through them, nor copies them.
    """

    def __init__(self, attached: Mapping[str, AttachedFile], room_bytes: int) -> None:
        self._attached = attached
        self._room = room_bytes
        self._key = secrets.token_hex(16)  # no text has it
        self._places: dict[str, int] = {}  # by asset id, in `_sources`
        self._sources: list[tuple[bytes, bytes]] = []  # their beginnings, and their bytes in base64

    def picture(self, asset: Asset) -> _Picture:
        file = self._attached.get(asset.id or "")
        name = asset.name or (file.name if file else "") or asset.id or asset.kind
        source = None if file is None else self._source(file)
        kind = asset.kind if file is None else _SHOWN.get(file.media_type, "file")
        return _Picture(kind, name, asset.description, source, None if file is None else file.link)

    def filled_in(self, page: bytes) -> Iterator[bytes]:
        """The page with the bytes in their places, piece by piece."""
        text, *others = page.split(self._key.encode())
        yield text
        for other in others:
            place, _, text = other.partition(b";")
            yield from self._sources[int(place)]
            yield text

    def _source(self, file: AttachedFile) -> str | None:
        if file.path is None or file.size_bytes > min(LARGEST_EMBEDDED_BYTES, self._room):
            return None
        if file.id not in self._places:
            try:
                content = file.path.read_bytes()
            except OSError:
                return None  # it is named, like those that were never there
            media_type = file.media_type if file.media_type in _SHOWN else "application/octet-stream"
            self._places[file.id] = len(self._sources)
            self._sources.append((f"data:{media_type};base64,".encode(), base64.b64encode(content)))
        self._room -= file.size_bytes
        return f"{self._key}{self._places[file.id]};"


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def markdown(text: str, footnotes: tuple[Footnote, ...] = (), key: str = "") -> Markup:
        return Markup(rendering.render(text, footnotes=footnotes, key=key))  # noqa: S704 - sanitized there

    def code(text: str, language: str = "") -> Markup:
        return Markup(rendering.highlight(text, language))  # noqa: S704 - escaped there

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals["kind"] = lambda passage: type(passage).__name__
    environment.filters |= {"markdown": markdown, "code": code, "http_url": http_url, "iso": iso, "time": _time}
    return environment


def _time(time_us: int) -> str:
    return f"{datetime.fromtimestamp(time_us // SECOND, UTC):%Y-%m-%d %H:%M} UTC"
