# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations of plain text, from the Markdown files in `texts/`: a folder an account, a file a conversation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from chatgpt_rest.upstream.simulated.library.shelf import Shelf

FOLDER: Final = Path(__file__).parent / "texts"
TURN: Final = re.compile(r"^=== user\n(.*?)\n+=== assistant\n(.*?)\n*(?=^=== user$|\Z)", re.MULTILINE | re.DOTALL)


def put_on(shelf: Shelf, *, folder: str) -> None:
    """Every conversation of this folder. Files begin with `title:`, `hours_ago:` and `model:`; then come the turns."""
    for file in sorted((FOLDER / folder).glob("*.md")):
        written = file.read_text(encoding="utf-8")
        head = dict(line.split(": ", 1) for line in written.partition("\n\n")[0].splitlines())
        turns = [(prompt, answer) for prompt, answer in TURN.findall(written)]
        shelf.put(head["title"], turns, hours_ago=float(head["hours_ago"]), model=head["model"])
