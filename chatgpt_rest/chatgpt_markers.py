# SPDX-License-Identifier: GPL-2.0-or-later
"""What ChatGPT writes into a text for its own page, turned into what a person can read: citations become footnotes.

Markers are private-use characters (`U+E200 kind U+E202 argument … U+E201`), and before them `【11†source】` and
`:contentReference[oaicite:2]{index=2}`. What they stand for is said in the message's metadata, by the exact text of
the marker where we are lucky, else in order. Time is linear in the length of text and metadata, whatever they hold.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

MARKED: Final = re.compile(
    "\ue200(?P<closed>[^\ue200\ue201]*)\ue201"
    # With no end it reaches as far as its arguments look like some.
    "|\ue200(?P<open>[a-z_]{1,20}(?:\ue202(?:turn[0-9]+[a-z]+[0-9]+|[\\w-]*))+|[a-z_]{1,20}\\Z)"
    "|[\ue200-\ue20f]"
    "|【[^【】†\n]{0,30}†[^【】\n]{0,100}】"
    "|:contentReference\\[oaicite:(?P<index>[0-9]{1,9})\\](?:\\{index=[0-9]{1,9}\\})?"
)
_CLOSED: Final = re.compile("\ue200(?P<closed>[a-z_]{1,20}\ue202[^\ue200\ue201]*)\ue201(?P<open>)(?P<index>)")
_SANDBOX: Final = re.compile(
    r"!?\[(?P<label>[^\[\]\n]*)\]\(sandbox:(?P<target>[^()\s]*)\)|sandbox:(?P<bare>/[^\s()`'\"<>]*[^\s()`'\"<>.,;:!?])"
)
_CITING: Final = frozenset({"cite", "filecite", "navlist", "i", "image_group", "video"})
_MOST_LONGER: Final = 8  # texts of several markers that begin with the same one
_LONGEST_LONGER: Final = 1_000  # characters
_BEFORE_NOTHING: Final = frozenset(" \n.,;:!?)")


class Source(NamedTuple):
    """What is cited. `url` is http or https, and None where there is none or it was something else."""

    title: str
    url: str | None


@dataclass(frozen=True, slots=True)
class Footnote:
    """A source that `[^label]` in a text refers to."""

    label: str
    title: str
    url: str | None


class Footnotes:
    """Numbers the sources of a whole conversation, and passes over what its texts use as labels of their own."""

    def __init__(self, *, taken: Collection[str] = ()) -> None:
        self._taken = frozenset(taken)
        self._last = 0
        self._labels: dict[Source, str] = {}
        self._addresses: set[str | None] = set()

    def cite(self, source: Source) -> str:
        """The reference to a footnote, the same one for the same source of one message."""
        if source not in self._labels:
            self._last += 1
            while str(self._last) in self._taken:
                self._last += 1
            self._labels[source] = str(self._last)
            self._addresses.add(source.url)
        return f"[^{self._labels[source]}]"

    def has(self, source: Source) -> bool:
        """Whether this message cites it already: under any title, where it has an address."""
        return source in self._labels or (source.url is not None and source.url in self._addresses)

    def end_message(self) -> tuple[Footnote, ...]:
        """The footnotes since the last message ended. The next one's begin with the next number."""
        ended = tuple(Footnote(label, *source) for source, label in self._labels.items())
        self._labels, self._addresses = {}, set()
        return ended


class Citations:
    """What the markers in one message stand for.

    `texts` are all of its texts: which references have a marker of their own is known only with all of them.
    `elsewhere` are sources that other messages of the conversation found, by ids like `turn0search3`.
    """

    def __init__(
        self,
        metadata: Mapping[str, Any],
        texts: Iterable[str],
        footnotes: Footnotes,
        *,
        elsewhere: Mapping[str, Source] | None = None,
    ) -> None:
        self._footnotes = footnotes
        self._references = [each for each in _list(metadata.get("content_references")) if isinstance(each, dict)]
        self._own = sources_by_id(metadata)
        self._elsewhere = elsewhere or {}
        present = {match[0] for text in texts for match in MARKED.finditer(text)}
        self._exact: defaultdict[str, deque[Mapping[str, Any]]] = defaultdict(deque)
        self._longer: defaultdict[str, list[str]] = defaultdict(list)
        self._in_order: deque[list[Source]] = deque()
        self._placed: set[Source] = set()
        self._at_end: list[Source] = []
        for reference in self._references:
            self._sort(reference, present)
        for longer in self._longer.values():
            longer.sort(key=len, reverse=True)
        self._at_position: dict[int, Source] = {}
        for citation in _list(metadata.get("citations")):
            self._take_citation(_dict(citation))

    def resolve(self, text: str, *, is_verbatim: bool = False) -> str:
        """`text` with every marker replaced. In what a person typed (`is_verbatim`) only whole markers are, which
        nobody types, and all the rest stays as it is.
        """
        shown: list[str] = []
        done = 0
        for match in (_CLOSED if is_verbatim else MARKED).finditer(text):
            if match.start() < done:
                continue  # a longer text that began before has it
            shown.append(text[done : match.start()])
            marked = self._marked(text, match)
            replacement = self._replacement(marked, match)
            done = match.start() + len(marked)
            if not replacement and shown[-1].endswith(" ") and text[done : done + 1] in _BEFORE_NOTHING | {""}:
                shown[-1] = shown[-1].rstrip(" ")
            shown.append(replacement)
        shown.append(text[done:])
        resolved = "".join(shown)
        return resolved if is_verbatim or "sandbox:" not in resolved else _SANDBOX.sub(_sandboxed, resolved)

    def rest(self) -> tuple[Source, ...]:
        """The sources that no marker stands for, to be listed at the end."""
        left = dict.fromkeys([*(source for sources in self._in_order for source in sources), *self._at_end])
        return tuple(source for source in left if not self._footnotes.has(source))

    def _sort(self, reference: Mapping[str, Any], present: Collection[str]) -> None:
        matched = _str(reference.get("matched_text")).strip()
        first = MARKED.match(matched)
        if first is not None and first[0] in present:
            self._exact[matched].append(reference)
            if first.end() < len(matched) <= _LONGEST_LONGER and len(self._longer[first[0]]) < _MOST_LONGER:
                self._longer[first[0]].append(matched)
        elif reference.get("type") == "sources_footnote":
            self._at_end.extend(sources_of(reference))
        elif reference.get("type") != "hidden" and (sources := list(sources_of(reference))):
            self._in_order.append(sources)

    def _take_citation(self, citation: Mapping[str, Any]) -> None:
        found = list(sources_of(_dict(citation.get("metadata")))) or list(sources_of(citation))
        if not found:
            return
        start = citation.get("start_ix")
        if isinstance(start, int):
            self._at_position.setdefault(start, found[0])
        self._in_order.append(found[:1])

    def _marked(self, text: str, match: re.Match[str]) -> str:
        longer = self._longer.get(match[0], ())
        return next((each for each in longer if text.startswith(each, match.start())), match[0])

    def _replacement(self, marked: str, match: re.Match[str]) -> str:
        kind, *arguments = (match["closed"] or match["open"] or "").split("\ue202")
        if kind.endswith("entity") and (name := _entity(arguments)):
            return name
        if references := self._exact.get(marked):
            # The same marker in two places has two references, or one that serves both.
            return self._shown(references.popleft() if len(references) > 1 else references[0], kind, arguments)
        if kind == "url" and arguments:
            return self._labelled(arguments)
        if not (found := self._found(match, arguments)) and (kind in _CITING or match[0][0] in "【:"):
            found = self._next_in_order()
        return self._cited(found, kind, arguments) or (_product_names(arguments) if kind == "products" else "")

    def _shown(self, reference: Mapping[str, Any], kind: str, arguments: list[str]) -> str:
        if reference.get("type") == "hidden":
            return ""
        if kind == "url" and arguments:
            return self._labelled(arguments)
        # What stands for something else than sources has its words in `alt`, as Markdown.
        return self._cited(sources_of(reference), kind, arguments) or _safe_words(_str(reference.get("alt")))

    def _cited(self, sources: Iterable[Source], kind: str, arguments: list[str]) -> str:
        references = "".join(self._footnotes.cite(source) for source in sources)
        heading = escaped(arguments[0]) if kind == "navlist" and len(arguments) > 1 and references else ""
        return heading + references

    def _labelled(self, arguments: list[str]) -> str:
        label, target = arguments[0], arguments[1] if len(arguments) > 1 else ""
        source = self._by_id(target)
        return linked(label, http_url(target) or (source.url if source else None))

    def _found(self, match: re.Match[str], arguments: Iterable[str]) -> list[Source]:
        """The sources that the marker names itself: by an index, by where it stands, by their ids."""
        if match["index"]:
            named = self._references[int(match["index"]) :][:1]
            found = [source for reference in named for source in sources_of(reference)]
        elif match[0].startswith("【"):
            found = [self._at_position[match.start()]] if match.start() in self._at_position else []
        else:
            ids = (each for argument in arguments for each in argument.split(","))
            found = [source for each in ids if (source := self._by_id(each)) is not None]
        self._placed.update(found)
        return list(dict.fromkeys(found))

    def _by_id(self, identifier: str) -> Source | None:
        return self._own.get(identifier) or self._elsewhere.get(identifier)

    def _next_in_order(self) -> list[Source]:
        while self._in_order:
            sources = self._in_order.popleft()
            if not self._placed.issuperset(sources):
                return sources
        return []


def words_alone(content: str) -> str:
    """The Markdown that a marker, of which `content` stands between its ends, brings itself: `""` where it only points
    at what its message's metadata tell.
    """
    kind, *arguments = content.split("\ue202")
    if kind.endswith("entity"):
        return _entity(arguments)
    if kind == "url" and arguments:
        return linked(arguments[0], http_url(arguments[1] if len(arguments) > 1 else None))
    return _product_names(arguments) if kind == "products" else ""


def sources_by_id(metadata: Mapping[str, Any]) -> dict[str, Source]:
    """The search results that a message's metadata hold, by the ids that markers use (`turn0search3`)."""
    groups = (_dict(each).get("entries") for each in _list(metadata.get("search_result_groups")))
    items = (_dict(each).get("items") for each in _list(metadata.get("content_references")))
    found: dict[str, Source] = {}
    for entry in (_dict(each) for several in (*groups, *items) for each in _list(several)):
        for reference in (entry.get("ref_id"), *_list(entry.get("refs"))):
            told = _dict(reference)
            turn, kind, index = (told.get(name) for name in ("turn_index", "ref_type", "ref_index"))
            source = next(sources_of(entry), None)
            if isinstance(turn, int) and isinstance(kind, str) and isinstance(index, int) and source is not None:
                found.setdefault(f"turn{turn}{kind}{index}", source)
    return found


def sources_of(reference: Mapping[str, Any]) -> Iterator[Source]:
    """What a reference cites: itself, or the items in it. What has neither a title nor an address is nothing."""
    seen: set[Source] = set()
    members = ("items", "sources", "images", "products", "fallback_items", "supporting_websites")
    items = [each for name in members for each in _list(reference.get(name))]
    supporting = [each for item in items for each in _list(_dict(item).get("supporting_websites"))]
    for each in (reference, *items, *supporting):
        source = _source(_dict(each))
        if source is not None and source not in seen:
            seen.add(source)
            yield source


def http_url(text: object) -> str | None:
    """`text` as an address that may stand in Markdown, where it is one of http or https; else None."""
    if not isinstance(text, str) or not re.match(r"https?://[^\s/]", text.strip(), re.IGNORECASE):
        return None
    return re.sub(r"[\x00-\x20\x7f\s()<>\\\"`^{|}\ud800-\udfff\ue200-\ue20f]", _percent, text.strip())


def linked(title: str, url: str | None) -> str:
    """A link in Markdown, or the bare title where there is nothing to link to."""
    return f"[{escaped(title) or url}]({url})" if url else escaped(title)


def escaped(text: str) -> str:
    """`text` on one line of Markdown that means nothing but itself."""
    return re.sub(r"([\\`*_\[\]<>$~|&])", r"\\\1", " ".join(text.split()))


def _source(item: Mapping[str, Any]) -> Source | None:
    told = _first(item, "url", "cloud_doc_url", "content_url")
    url = http_url(told)
    title = _first(item, "title", "name", "attribution") or url or told
    # The name of a place or of a group of sources is no source: it takes an address, or a file's own name, to be one.
    return Source(title, url) if title and (told or item.get("type") == "file") else None


def _first(item: Mapping[str, Any], *names: str) -> str:
    return next((told for name in names if (told := _str(item.get(name)).strip())), "")


def _entity(arguments: Iterable[str]) -> str:
    """The name in `["city","Paris","the capital"]`."""
    for value in map(_json, arguments):
        if isinstance(value, list) and len(value) > 1 and isinstance(value[1], str):
            return escaped(value[1])
    return ""


def _product_names(arguments: Iterable[str]) -> str:
    """The names in `{"selections": [["turn0product1", "A lamp"], …]}`."""
    selections = (each for value in map(_json, arguments) for each in _list(_dict(value).get("selections")))
    return ", ".join(
        escaped(each[1]) for each in selections if isinstance(each, list) and len(each) > 1 and isinstance(each[1], str)
    )


def _safe_words(alt: str) -> str:
    """Markdown without links to anything but http and https, and with no marker left in it."""
    words = re.sub("[\ue200-\ue20f]", "", alt)
    return re.sub(r"!?\[([^\[\]\n]*)\]\((?!https?://)[^()\n]*\)", r"\1", words, flags=re.IGNORECASE)


def _sandboxed(match: re.Match[str]) -> str:
    """A link into the machine that ran the code, which is gone: its label, and the name of the file."""
    target = match["bare"] or match["target"]
    name = unquote(target).rsplit("/", 1)[-1].replace("`", "'")
    label = (match["label"] or "").strip()
    if not name or name in label:
        return label or target
    return f"{label} (`{name}`)" if label else f"`{name}`"


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode(errors="replace"))


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""
