# SPDX-License-Identifier: GPL-2.0-or-later
"""The forms in which a person can have a conversation, by the names that the command line and the API know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from chatgpt_rest.archive import html, markdown, readable
from chatgpt_rest.chatgpt_text import AttachedFile
from chatgpt_rest.model import Conversation


class Render(Protocol):
    """Milliseconds for an ordinary conversation, seconds for the longest."""

    def __call__(self, tree: Conversation, *, attached: Mapping[str, AttachedFile]) -> bytes:
        """The conversation as a file. `attached` are its assets by id."""


@dataclass(frozen=True, slots=True)
class Form:
    """One of them: what its files end in, what they are over HTTP, and how they are made."""

    suffix: str
    content_type: str
    charset: str | None
    embeds_up_to_bytes: int
    """An asset up to this size is in the file itself."""
    render: Render


def _markdown(tree: Conversation, *, attached: Mapping[str, AttachedFile]) -> bytes:
    return markdown.render(tree, attached=attached).encode()


FORMS: Final[Mapping[str, Form]] = {
    "markdown": Form(".md", "text/markdown", "utf-8", embeds_up_to_bytes=0, render=_markdown),
    "html": Form(".html", "text/html", "utf-8", embeds_up_to_bytes=html.LARGEST_EMBEDDED_BYTES, render=html.render),
    "json": Form(".json", "application/json", None, embeds_up_to_bytes=0, render=readable.render),
}
