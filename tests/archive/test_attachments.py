# SPDX-License-Identifier: GPL-2.0-or-later
"""Assets that only an export's library tells of, in the conversation that they belong to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatgpt_rest.archive.attachments import with_placed
from chatgpt_rest.mirror import Asset, Attached
from chatgpt_rest.model import Conversation
from tests.shapes import conversation, message


def placed(node: str = "", identifier: str = "file-a") -> Attached:
    """A picture that came with this message, or with the conversation."""
    asset = Asset(identifier, b"\0" * 32, 9, "image/png", "cat.png")
    return Attached(node, identifier, None, None, asset)


def attachments(tree: Conversation) -> dict[str, Any]:
    """What each message has attached, where it has anything."""
    messages = {key: json.loads(node.message or b"null") for key, node in tree.nodes.items()}
    found = {key: each["metadata"].get("attachments") for key, each in messages.items() if each}
    return {key: each for key, each in found.items() if each}


CAT = {"id": "file-a", "name": "cat.png", "mime_type": "image/png"}
TREE = conversation(None, message("Draw!", role="user"), message("code", recipient="dalle"), message("Here."))


@pytest.mark.parametrize(("node", "home"), [("n1", "n1"), ("n2", "n3"), ("", "n3"), ("unknown", "n3"), ("n0", "n3")])
def test_a_placed_asset_is_attached_where_it_is_seen(node: str, home: str) -> None:
    """To its own message; where a reader does not see that, or it is not known, to the last that is seen."""
    assert attachments(with_placed(TREE, [placed(node)])) == {home: [CAT]}


def test_several_stand_side_by_side() -> None:
    """After what the message had attached already, which stays as it was."""
    tree = conversation(message("x", metadata={"attachments": [{"id": "file-old"}], "model_slug": "m"}))
    both = with_placed(tree, [placed("n0"), placed("n0", "file-b")])
    assert attachments(both) == {"n0": [{"id": "file-old"}, CAT, {**CAT, "id": "file-b"}]}
    assert json.loads(both.nodes["n0"].message or b"")["metadata"]["model_slug"] == "m"


def test_what_a_message_points_to_is_left_alone() -> None:
    """It is shown where it stands; with nothing to place, nothing changes."""
    tree = conversation(message("x", metadata={"attachments": [{"id": "file-a"}]}))
    assert with_placed(tree, [placed("n0")]) == tree
    assert with_placed(tree, []) is tree


def test_where_nothing_is_seen_nothing_is_attached() -> None:
    """A conversation without any visible message stays as it is."""
    tree = conversation(None, message("x", role="system"))
    assert with_placed(tree, [placed("n1")]) == tree
