# SPDX-License-Identifier: GPL-2.0-or-later
"""What a conversation says to a person: who said what, in which order, citing what. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from chatgpt_rest import branches, chatgpt_json
from chatgpt_rest.chatgpt_markers import Footnote, Footnotes, Source, sources_by_id
from chatgpt_rest.chatgpt_passages import (
    Aside,
    Code,
    Document,
    Output,
    Passage,
    Quote,
    Transcription,
    Words,
    is_aside,
    passages,
    role,
    texts,
)
from chatgpt_rest.model import Completeness, Conversation, Node

_LABEL: Final = re.compile(r"\[\^([^\[\]\s]{1,20})\]")


@dataclass(frozen=True, slots=True)
class AttachedFile:
    """A file that belongs to a conversation and can be shown with it.

    `link` is a URL reference that finds it from where the text will stand; `path` is where its bytes lie. Either may be
    None: then it is named and no more.
    """

    id: str
    name: str
    media_type: str
    link: str | None
    path: Path | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Said:
    """One message, as a reader sees it.

    `parent` is the node above, shown or not. `versions` are the nodes between which a reader can choose here, this
    branch's own at `version`: empty where there is no choice. `is_hidden` is what ChatGPT's own page leaves out,
    `is_aside` what of that leads to an answer: reasoning, and documents in a canvas. `is_cut` goes on in the next one.
    """

    node_id: str
    parent: str | None
    role: str
    name: str | None
    model: str | None
    create_time: int | None
    content_type: str
    passages: tuple[Passage, ...]
    footnotes: tuple[Footnote, ...]
    is_hidden: bool
    is_aside: bool
    is_cut: bool
    is_partial: bool
    versions: tuple[str, ...] = ()
    version: int = 0


def transcript(tree: Conversation, *, end: str | None = None, hidden: bool = False) -> list[Said]:
    """What is said on the branch that ends at `end` (else on the current one), oldest first.

    Asides stand with the answer they led to, though ChatGPT counts them as hidden; all else that is hidden only comes
    with `hidden`. An answer that was cut and went on in the next message is one, under the id of the part that ended
    it.
    """
    told: list[Said] = []
    for said in _branch(tree, branches.branch(tree.nodes, end or branches.leaf(tree)), hidden=hidden):
        last = told[-1] if told and told[-1].role == said.role == "assistant" else None
        if last is not None and (last.is_aside or (last.is_cut and last.node_id == said.parent)):
            told[-1] = _together(last, said)
        else:
            told.append(said)
    return told


def everything(tree: Conversation) -> list[Said]:
    """Every message of every branch, hidden ones too, each for itself, in the order they came in."""
    messages = [(each, message) for each in tree.nodes.values() if (message := _message(each)) is not None]
    return list(_read(messages))


def plain(said: Said) -> str:
    """The words of a message alone, as Markdown: no pictures, and nothing that is folded away unless it is all."""
    spoken = Words | Code | Output | Quote | Transcription | Document
    words = [_plain_words(each) for each in said.passages if isinstance(each, spoken)]
    return "\n\n".join(words or [each.text for each in said.passages if isinstance(each, Aside)])


def _plain_words(passage: Words | Code | Output | Quote | Transcription | Document) -> str:
    return passage.markdown if isinstance(passage, Words) else passage.text


# ------------------------------------------------------------------------------------------------------------ branches


def _branch(tree: Conversation, path: Sequence[Node], *, hidden: bool) -> Iterator[Said]:
    """What of a branch is shown, each with the versions to choose from: those of what is hidden (two ways to think
    about it) are a choice between what is shown after it.
    """
    kin = branches.children(tree.nodes)
    choice: tuple[tuple[str, ...], int] = ((), 0)
    messages = [(each, message) for each in path if (message := _message(each)) is not None]
    read = {said.node_id: said for said in _read(messages)}
    for node in path:
        brood = kin.get(node.parent or "", [])
        versions = tuple(each for each in brood if each == node.id or _is_seen(tree, kin, each))
        if len(versions) > 1:
            choice = _chosen(choice, (versions, versions.index(node.id)))
        said = read.get(node.id)
        if said is None or not (said.passages or said.is_partial) or (said.is_hidden and not (said.is_aside or hidden)):
            continue
        yield replace(said, versions=choice[0], version=choice[1])
        choice = ((), 0)


def _is_seen(tree: Conversation, kin: Mapping[str, Sequence[str]], top: str) -> bool:
    """Whether anything is shown at or below this node."""
    waiting, visited = [top], {top}
    while waiting:
        node = waiting.pop()
        if not chatgpt_json.is_hidden(_message(tree.nodes[node])):
            return True
        below = [each for each in kin[node] if each not in visited]
        visited.update(below)
        waiting.extend(below)
    return False


def _chosen(before: tuple[tuple[str, ...], int], after: tuple[tuple[str, ...], int]) -> tuple[tuple[str, ...], int]:
    """Two choices in a row as one: in the place of what was chosen first stands what could be chosen then."""
    if not before[0] or not after[0]:
        return after if after[0] else before
    (first, place), (then, index) = before, after
    return (*first[:place], *then, *first[place + 1 :]), place + index


def _together(first: Said, then: Said) -> Said:
    versions, version = _chosen((first.versions, first.version), (then.versions, then.version))
    start, end = first.passages, then.passages
    seam = (start[-1] if start else None, end[0] if end else None)
    if first.is_cut and isinstance(seam[0], Words) and isinstance(seam[1], Words):
        # Cut anywhere, in the middle of a word or a table: nothing goes between.
        start, end = start[:-1], (Words(seam[0].markdown + seam[1].markdown), *end[1:])
    return replace(
        then,
        passages=(*start, *end),
        footnotes=(*first.footnotes, *then.footnotes),
        versions=versions,
        version=version,
    )


# ------------------------------------------------------------------------------------------------------------ messages


def _read(messages: Sequence[tuple[Node, dict[str, Any]]]) -> Iterator[Said]:
    taken = {label for _, message in messages for text in texts(message) for label in _LABEL.findall(text)}
    footnotes = Footnotes(taken=taken)
    elsewhere: dict[str, Source] = {}
    for _, message in messages:
        elsewhere |= sources_by_id(_dict(message.get("metadata")))
    for node, message in messages:
        metadata = _dict(message.get("metadata"))
        yield Said(
            node_id=node.id,
            parent=node.parent,
            role=role(message),
            name=_str(_dict(message.get("author")).get("name")) or None,
            model=_str(metadata.get("model_slug")) or None,
            create_time=node.create_time,
            content_type=_str(_dict(message.get("content")).get("content_type")),
            passages=passages(message, footnotes=footnotes, elsewhere=elsewhere),
            footnotes=footnotes.end_message(),
            is_hidden=chatgpt_json.is_hidden(message),
            is_aside=is_aside(message),
            is_cut=_dict(metadata.get("finish_details")).get("type") == "max_tokens",
            is_partial=node.completeness is not Completeness.COMPLETE,
        )


def _message(node: Node) -> dict[str, Any] | None:
    raw = None if node.message is None else json.loads(node.message)
    return raw if isinstance(raw, dict) else None


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""
