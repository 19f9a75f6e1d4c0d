# SPDX-License-Identifier: GPL-2.0-or-later
"""A conversation as a Markdown file: front matter for programs, the rest for people and whatever editor they like.

What was written stands in it as it was written, but for control characters. The same conversation always gives the same
bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Final

from chatgpt_rest import rendering
from chatgpt_rest.chatgpt_json import UNTITLED, printable
from chatgpt_rest.chatgpt_markers import escaped, http_url, linked
from chatgpt_rest.chatgpt_passages import (
    Aside,
    Asset,
    Code,
    Document,
    Fold,
    Output,
    Plain,
    Quote,
    Sources,
    Transcription,
    Unknown,
    Words,
    folded,
)
from chatgpt_rest.chatgpt_text import AttachedFile, Said, transcript
from chatgpt_rest.clock import SECOND, iso
from chatgpt_rest.model import Conversation

_LANGUAGE: Final = re.compile(r"[A-Za-z0-9+#._-]{1,30}")
_UNQUOTABLE: Final = re.compile(r'["\\\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]')
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal that prints the file would obey: all but tabs and the ends of lines."""


def render(tree: Conversation, *, attached: Mapping[str, AttachedFile]) -> str:
    """The current branch of a conversation. `attached` are its files by asset id, linked where they have a link."""
    parts = [_front_matter(tree), f"# {escaped(tree.title or '') or UNTITLED}"]
    for said in transcript(tree):
        parts.extend(_message(said, attached))
    text = "\n\n".join(parts).replace("\r\n", "\n")
    return _CONTROLS.sub("\ufffd", printable(text) or "") + "\n"


# -------------------------------------------------------------------------------------------------------- front matter


def _front_matter(tree: Conversation) -> str:
    members = {
        "id": tree.id,
        "title": tree.title,
        "create_time": None if tree.create_time is None else iso(tree.create_time),
        "update_time": None if tree.update_time is None else iso(tree.update_time),
        "model": tree.model,
        "project": tree.project,
        "url": f"https://chatgpt.com/c/{tree.id}",
        "source": "chatgpt",
    }
    return "\n".join(["---", *(f"{name}: {_quoted(value)}" for name, value in members.items()), "---"])


def _quoted(value: str | None) -> str:
    """A value of YAML, 1.1 or 1.2: quoted, or it could be taken for a number, a date or a truth. Not JSON's quotes:
    those write an emoji as two halves, which YAML reads as two characters.
    """
    if value is None:
        return "null"
    return '"' + _UNQUOTABLE.sub(_escape, printable(value) or "") + '"'


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return f"\\{character}" if character in '"\\' else f"\\u{ord(character):04X}"


# ------------------------------------------------------------------------------------------------------------ messages


def _message(said: Said, attached: Mapping[str, AttachedFile]) -> Iterator[str]:
    yield f"## {_heading(said)}"
    if said.versions:
        yield f"*Version {said.version + 1} of {len(said.versions)}; this file holds only this one.*"
    for passage in folded(said.passages):
        if text := _passage(passage, attached).strip("\n"):
            yield text
    if said.is_partial:
        yield "*This message is incomplete.*"
    if said.footnotes:
        yield "\n".join(f"[^{each.label}]: {linked(each.title, each.url)}" for each in said.footnotes)


def _heading(said: Said) -> str:
    name = f" {escaped(said.name)}" if said.name and said.role == "tool" else ""
    told = [escaped(said.role.capitalize()) + name, escaped(said.model or "")]
    if said.create_time is not None:
        told.append(f"{datetime.fromtimestamp(said.create_time // SECOND, UTC):%Y-%m-%d %H:%M:%S} UTC")
    return " · ".join(filter(None, told))


def _passage(passage: Plain | Fold, attached: Mapping[str, AttachedFile]) -> str:
    match passage:
        case Words(text):
            return _closed(text)
        case Transcription(text):
            return f"*Spoken:* {text.strip()}"
        case Code(text, language):
            return _fenced(text, language)
        case Output(text):
            return _fenced(text, "text")
        case Asset():
            return _asset(passage, attached)
        case Quote():
            return _quote(passage)
        case Document(name, text, language):
            inside = _fenced(text, language) if language else _closed(text)
            return _details(f"Document: {name}" if name else "Document", inside, is_open=True)
        case Fold(heading, asides):
            inside = "\n\n".join(_aside(each) for each in asides)
            return _details(heading, inside) if asides else f"*{escaped(heading)}*"
        case Unknown(kind, raw):
            return _details(f"Content of an unknown kind: {kind}", _fenced(raw, "json"))
        case Sources(sources):
            return "Sources:\n\n" + "\n".join(f"- {linked(each.title, each.url)}" for each in sources)


def _closed(text: str) -> str:
    fence = rendering.open_fence(text)
    return f"{text.rstrip()}\n{fence}" if fence else text.rstrip()


def _fenced(text: str, language: str) -> str:
    """A block of code that nothing in it can end: its fence is longer than any run of backticks."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    info = language if _LANGUAGE.fullmatch(language) else ""
    return f"{fence}{info}\n{text.removesuffix(chr(10))}\n{fence}"


def _asset(asset: Asset, attached: Mapping[str, AttachedFile]) -> str:
    file = attached.get(asset.id or "")
    name = asset.name or (file.name if file else "") or asset.id or asset.kind
    if file is None or file.link is None:
        return f"*{asset.kind.capitalize()}, not in this archive: {escaped(name)}*"
    is_image = asset.kind == "image"
    words = escaped((asset.description if is_image else "") or name)
    link = re.sub(r"[()<>\s]", _percent, file.link)
    return f"{'!' if is_image else ''}[{words}]({link})"


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())


def _quote(quote: Quote) -> str:
    url = http_url(quote.url)
    origin = linked(quote.title or quote.url, url)
    lines = [*quote.text.strip().splitlines(), *(["", f"— {origin}"] if origin else [])]
    return "\n".join(f"> {line}".rstrip() for line in lines)


def _aside(aside: Aside) -> str:
    heading = f"**{escaped(aside.heading)}**\n\n" if aside.heading.strip() else ""
    return heading + _closed(aside.text)


def _details(heading: str, inside: str, *, is_open: bool = False) -> str:
    summary = escape(" ".join(heading.split()))
    opening = "<details open>" if is_open else "<details>"
    return f"{opening}\n<summary>{summary}</summary>\n\n{inside.strip(chr(10))}\n\n</details>"
