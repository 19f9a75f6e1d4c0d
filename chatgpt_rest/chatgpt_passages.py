# SPDX-License-Identifier: GPL-2.0-or-later
"""What one message says to a person, as passages of a few kinds, from which Markdown, HTML and JSON are written. Pure.

Nothing here fails for what a message holds: what is not known is named and shown as the JSON it is.
"""

from __future__ import annotations

import json
import mimetypes
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from chatgpt_rest import chatgpt_json
from chatgpt_rest.chatgpt_assets import asset_id, asset_pointers
from chatgpt_rest.chatgpt_markers import Citations, Footnotes, Source

AssetKind = Literal["image", "audio", "video", "file"]

MOST_RAW: Final = 20_000
"""How many characters of JSON nobody knows are shown. All of it is in the mirror."""

_REASONING: Final = "Reasoning"
_WRITING: Final = re.compile(r"^:::(?:(writing)[ \t]{0,8}(?:\{([^}\n]*)\})?)?[ \t]{0,8}$\n?", re.MULTILINE)
_ATTRIBUTE: Final = re.compile(r'\b(?:title|subject)="([^"]*)"')
_TERMINAL_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_POINTERS: Final[Mapping[str, AssetKind]] = {
    "image_asset_pointer": "image",
    "audio_asset_pointer": "audio",
    "video_asset_pointer": "video",
}


@dataclass(frozen=True, slots=True)
class Words:
    """Markdown, with `[^label]` for each footnote. `is_verbatim` where a person typed it, who may have meant none."""

    markdown: str
    is_verbatim: bool = False


@dataclass(frozen=True, slots=True)
class Code:
    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """What a program printed."""

    text: str


@dataclass(frozen=True, slots=True)
class Asset:
    """A file. `id` is None where nothing says which; `description` is what a picture was asked to show, if told."""

    kind: AssetKind
    id: str | None
    name: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Quote:
    """A passage of a page or file that was read. `url` is as it came: check it before following."""

    text: str
    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Transcription:
    """What was said aloud."""

    text: str


@dataclass(frozen=True, slots=True)
class Aside:
    """Something to be folded away: reasoning, context, and the like. `text` is Markdown, and may be empty."""

    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """A text written in a canvas or to be used elsewhere. With a `language` it is code, else Markdown."""

    name: str
    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Content of a type or shape that is not known here, as JSON."""

    kind: str
    raw: str


@dataclass(frozen=True, slots=True)
class Sources:
    """Sources that belong to a message, and to no word of it."""

    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """Asides that came one after the other, under one heading."""

    heading: str
    asides: tuple[Aside, ...]


Plain = Words | Code | Output | Asset | Quote | Transcription | Document | Unknown | Sources
Passage = Plain | Aside


def passages(
    message: Mapping[str, Any], *, footnotes: Footnotes | None = None, elsewhere: Mapping[str, Source] | None = None
) -> tuple[Passage, ...]:
    """What a message says. `footnotes` gathers what it cites, `elsewhere` are sources that other messages found."""
    is_verbatim = role(message) == "user"
    citations = Citations(_dict(message.get("metadata")), texts(message), footnotes or Footnotes(), elsewhere=elsewhere)
    names = {identifier: (name or "", media_type or "") for identifier, name, media_type in asset_pointers(message)}
    found = list(_content(message, names))
    shown = {each.id for each in found if isinstance(each, Asset)}
    found += [
        Asset(_kind(media_type, name), identifier, name)
        for identifier, (name, media_type) in names.items()
        if identifier not in shown
    ]
    resolved = [part for each in found for part in _resolved(each, citations, is_verbatim=is_verbatim)]
    rest = () if is_verbatim else citations.rest()
    return (*resolved, Sources(rest)) if rest else tuple(resolved)


def folded(said: Iterable[Passage]) -> Iterator[Plain | Fold]:
    """The passages, neighbouring asides gathered: under the last heading that has nothing below it ("Thought for 7s"),
    else under their own where there is one alone.
    """
    asides: list[Aside] = []
    for each in said:
        if isinstance(each, Aside):
            asides.append(each)
            continue
        if asides:
            yield _fold(asides)
            asides = []
        yield each
    if asides:
        yield _fold(asides)


def _fold(asides: Sequence[Aside]) -> Fold:
    bare = [each.heading for each in asides if not each.text.strip()]
    within = tuple(each for each in asides if each.text.strip())
    if not bare and len(within) == 1:
        return Fold(within[0].heading or _REASONING, (Aside("", within[0].text),))
    return Fold(bare[-1] if bare else _REASONING, within)


def texts(message: Mapping[str, Any]) -> list[str]:
    """Every text of a message in which markers can stand, as ChatGPT wrote it."""
    content = _dict(message.get("content"))
    return [each for each in (*_list(content.get("parts")), content.get("text")) if isinstance(each, str)]


def role(message: Mapping[str, Any]) -> str:
    """Who speaks: `user`, `assistant`, `tool`, `system`, or whatever else a message may say."""
    return _str(_dict(message.get("author")).get("role")) or "unknown"


def is_aside(message: Mapping[str, Any]) -> bool:
    """Whether this hidden message is offered all the same: reasoning, and what is written into a canvas."""
    if _dict(message.get("metadata")).get("is_visually_hidden_from_conversation"):
        return False
    return _dict(message.get("content")).get("content_type") in ("thoughts", "reasoning_recap") or _is_canvas(message)


def _is_canvas(message: Mapping[str, Any]) -> bool:
    return role(message) == "assistant" and _str(message.get("recipient")).startswith("canmore.")


# ------------------------------------------------------------------------------------------------------------- content


def _content(message: Mapping[str, Any], names: Mapping[str, tuple[str, str]]) -> Iterator[Passage]:
    """The passages of a message, its words still with their markers."""
    told = message.get("content")
    content = _dict(told)
    if not content:
        if told:
            yield Unknown("content", _raw(told))
        return
    kind = _str(content.get("content_type"))
    if _is_canvas(message) and (documents := list(_canvas(chatgpt_json.text(message)))):
        yield from documents
    elif kind in {"text", "multimodal_text"}:
        for part in _list(content.get("parts", [content.get("text")])):
            yield from _part(part, names)
    elif kind == "code":
        yield from _code(message, content)
    elif kind == "execution_output":
        yield from _output(message)
    elif kind in _READ:
        yield from _READ[kind](content)
    elif kind == "reasoning_recap":
        yield _recap(message, content)
    else:
        if text := _str(content.get("text")):
            yield Words(text)
        yield Unknown(kind or "content", _raw(content))


def _part(part: object, names: Mapping[str, tuple[str, str]]) -> Iterator[Passage]:
    if isinstance(part, str):
        yield Words(part)
        return
    members = _dict(part)
    kind = _str(members.get("content_type"))
    if kind == "audio_transcription":
        yield Transcription(_str(members.get("text")))
    elif kind == "real_time_user_audio_video_asset_pointer":
        yield from _pointer("audio", _dict(members.get("audio_asset_pointer")).get("asset_pointer"), names)
        yield from _pointer("video", members.get("video_container_asset_pointer"), names)
        for frame in _list(members.get("frames_asset_pointers")):
            yield from _pointer("image", _dict(frame).get("asset_pointer", frame), names)
    elif kind in _POINTERS:
        dalle = _dict(_dict(members.get("metadata")).get("dalle"))
        yield from _pointer(_POINTERS[kind], members.get("asset_pointer", ""), names, _str(dalle.get("prompt")))
    elif kind in _READ:
        yield from _READ[kind](members)
    elif part is not None:
        yield Unknown(kind or "part", _raw(part))


def _pointer(
    kind: AssetKind, pointer: object, names: Mapping[str, tuple[str, str]], description: str = ""
) -> Iterator[Passage]:
    if isinstance(pointer, str):
        identifier = asset_id(pointer)
        yield Asset(kind, identifier, names.get(identifier or "", ("", ""))[0], description)


def _code(message: Mapping[str, Any], content: Mapping[str, Any]) -> Iterator[Passage]:
    language = _str(content.get("language"))
    if content.get("response_format_name"):
        language = "json"
    yield Code(chatgpt_json.text(message), "" if language == "unknown" else language)


def _output(message: Mapping[str, Any]) -> Iterator[Passage]:
    yield Output(_TERMINAL_COLOURS.sub("", chatgpt_json.text(message)))
    results = _dict(_dict(message.get("metadata")).get("aggregate_result")).get("messages")
    for result in map(_dict, _list(results)):
        if result.get("message_type") == "image":
            yield from _pointer("image", result.get("image_url"), {})


def _quote(content: Mapping[str, Any]) -> Iterator[Passage]:
    words = _str(content.get("text")) or _str(content.get("snippet"))
    title = _str(content.get("title")) or _str(content.get("domain"))
    yield Quote(words, title, _str(content.get("url")))


def _browsed(content: Mapping[str, Any]) -> Iterator[Passage]:
    yield Output("\n\n".join(filter(None, (_str(content.get("summary")), _str(content.get("result"))))))


def _failure(content: Mapping[str, Any]) -> Iterator[Passage]:
    yield Output(": ".join(filter(None, (_str(content.get("name")), _str(content.get("text"))))))


def _thoughts(content: Mapping[str, Any]) -> Iterator[Passage]:
    for thought in map(_dict, _list(content.get("thoughts"))):
        chunks = "".join(each for each in _list(thought.get("chunks")) if isinstance(each, str))
        yield Aside(_str(thought.get("summary")), _str(thought.get("content")) or chunks)


def _recap(message: Mapping[str, Any], content: Mapping[str, Any]) -> Passage:
    seconds = _dict(message.get("metadata")).get("finished_duration_sec")
    told = f"Thought for {seconds}s" if isinstance(seconds, int | float) else ""
    return Aside(_str(content.get("content")) or told, "")


def _instructions(content: Mapping[str, Any]) -> Iterator[Passage]:
    told = (_str(content.get(name)) for name in ("user_profile", "user_instructions"))
    yield Aside("Custom instructions", "\n\n".join(filter(None, told)))


def _model_context(content: Mapping[str, Any]) -> Iterator[Passage]:
    told = (_str(content.get(name)) for name in ("model_set_context", "repository", "repo_summary"))
    yield Aside("Memory", "\n\n".join(filter(None, told)))


def _app_context(content: Mapping[str, Any]) -> Iterator[Passage]:
    workspaces = [_dict(each) for each in _list(content.get("workspaces"))]
    apps = [" – ".join(filter(None, (_str(each.get("app_name")), _str(each.get("title"))))) for each in workspaces]
    texts = [_str(_dict(each).get("text")) for each in _list(content.get("context_parts"))]
    yield Aside(", ".join(filter(None, apps)) or "From an app", "\n\n".join(filter(None, texts)))


def _canvas(text: str) -> Iterator[Passage]:
    """What was written into a canvas, or changed in one. Changes name what they replace by patterns: those are not
    followed, they can take for ever.
    """
    try:
        told = _dict(json.loads(text))
    except (ValueError, RecursionError):
        return
    if isinstance(written := told.get("content"), str):
        kind = _str(told.get("type"))
        yield Document(_str(told.get("name")), written, kind.partition("/")[2] if kind.startswith("code/") else "")
    for update in map(_dict, _list(told.get("updates"))):
        yield Document("Changes", _str(update.get("replacement")))
    for comment in map(_dict, _list(told.get("comments"))):
        yield Aside("Comment", _str(comment.get("comment")))


_READ: Final[Mapping[str, Callable[[Mapping[str, Any]], Iterator[Passage]]]] = {
    "tether_quote": _quote,
    "sonic_webpage": _quote,
    "tether_browsing_display": _browsed,
    "system_error": _failure,
    "thoughts": _thoughts,
    "user_editable_context": _instructions,
    "model_editable_context": _model_context,
    "app_pairing_content": _app_context,
}


# --------------------------------------------------------------------------------------------------------------- words


def _resolved(passage: Passage, citations: Citations, *, is_verbatim: bool) -> Iterator[Passage]:
    """The passage with its markers resolved; nothing where it says nothing."""
    match passage:
        case Words():
            text = citations.resolve(passage.markdown, is_verbatim=is_verbatim)
            for each in [Words(text, is_verbatim=True)] if is_verbatim else _with_documents(text):
                if not isinstance(each, Words) or each.markdown.strip():
                    yield each
        case Document(name, text, ""):
            yield Document(name, citations.resolve(text))
        case Aside(heading, text):
            if heading.strip() or text.strip():
                yield Aside(heading, citations.resolve(text))
        case Code(text) | Output(text) | Transcription(text):
            if text.strip():
                yield passage
        case _:
            yield passage


def _with_documents(text: str) -> Iterator[Passage]:
    """`text`, with what stands between `:::writing{subject="…"}` and `:::` as documents of their own."""
    done = 0
    name: str | None = None
    for match in _WRITING.finditer(text) if ":::writing" in text else ():
        if name is None and match[1] is None:
            continue  # the end of some other block
        before = text[done : match.start()]
        yield Words(before) if name is None else Document(name, before)
        attribute = _ATTRIBUTE.search(match[2] or "")
        name = None if match[1] is None else attribute[1] if attribute else ""
        done = match.end()
    yield Words(text[done:]) if name is None else Document(name, text[done:])


def _kind(media_type: str, name: str) -> AssetKind:
    told = media_type or mimetypes.guess_type(name)[0] or ""
    kinds: tuple[AssetKind, ...] = ("image", "audio", "video")
    return next((kind for kind in kinds if told.startswith(f"{kind}/")), "file")


def _raw(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return "…"
    return text if len(text) <= MOST_RAW else text[:MOST_RAW] + "…"


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""
