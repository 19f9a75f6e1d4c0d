# SPDX-License-Identifier: GPL-2.0-or-later
"""A conversation as JSON for programs: every message, where it stands, and its words without markers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given

from chatgpt_rest import chatgpt_json
from chatgpt_rest.archive import readable
from chatgpt_rest.chatgpt_text import AttachedFile
from chatgpt_rest.model import Conversation
from tests.rich import rich_conversation, rich_files
from tests.shapes import conversation, message, odd_conversations


def rendered(tree: Conversation, attached: dict[str, AttachedFile] | None = None) -> dict[str, Any]:
    """The file, parsed."""
    value = json.loads(readable.render(tree, attached=attached or {}))
    assert isinstance(value, dict)
    return value


def test_the_conversation_says_what_it_is() -> None:
    """Id, title, times, model, project and address are there, times in ISO 8601."""
    told = rendered(rich_conversation())
    assert {name: value for name, value in told.items() if name != "messages"} == {
        "id": "conversation",
        "title": 'Heat: "spread" 🔥\nand more',
        "create_time": "2023-05-28T17:13:08.233528+00:00",
        "update_time": "2023-05-28T17:13:08.233528+00:00",
        "model": "gpt-5",
        "project": "g-p-1",
        "url": "https://chatgpt.com/c/conversation",
        "source": "chatgpt",
        "current_node": "n10",
    }


def test_every_message_is_there_and_says_where_it_stands() -> None:
    """Hidden ones and other branches too, each with what is above and below it."""
    messages = {each["id"]: each for each in rendered(rich_conversation())["messages"]}
    assert list(messages) == [*(f"n{index}" for index in range(11)), "other"]
    assert (messages["n3"]["parent"], messages["n3"]["children"]) == ("n2", ["n4", "other"])
    assert [each["id"] for each in messages.values() if not each["is_on_current_branch"]] == ["other"]
    assert [each["id"] for each in messages.values() if each["is_hidden"]] == ["n0", "n2", "n3", "n9"]


def test_a_message_has_its_words_and_footnotes() -> None:
    """Markers are resolved, and what they cite is listed."""
    told = rendered(rich_conversation())["messages"][4]
    assert told["text"].startswith("Heat spreads[^1]:")
    assert told["footnotes"] == [{"label": "1", "title": "On [heat]", "url": "https://a.example/heat"}]
    assert (told["role"], told["model"], told["content_type"]) == ("assistant", "gpt-5", "text")


def test_files_are_listed(tmp_path: Path) -> None:
    """Each asset of a message has its id, and its file where there is one."""
    told = rendered(rich_conversation(), rich_files(tmp_path))["messages"][6]
    assert [(each["id"], each["name"], each["media_type"], each["file"]) for each in told["assets"]] == [
        ("file_pic", "pic.png", "image/png", "assets/file_pic"),
        ("file-pdf", "Paper (1).pdf", "application/pdf", "assets/file-pdf"),
        ("file-gone", "gone.xlsx", None, None),
    ]


def test_nodes_without_a_message_are_passed_over() -> None:
    """`parent` is the next message above, whatever lies between."""
    tree = conversation(message("a"), None, None, message("b"))
    first, second = rendered(tree)["messages"]
    assert (first["children"], second["parent"]) == (["n3"], "n0")


def test_a_long_chain_of_nothing_takes_linear_time() -> None:
    """Thousands of answers below thousands of empty nodes are found to be roots without walking up for each."""
    chain: dict[str, Any] = {f"e{index}": {"parent": f"e{index - 1}"} for index in range(1, 5_000)}
    answers: dict[str, Any] = {f"a{index}": {"parent": "e4999", "message": message("x")} for index in range(5_000)}
    tree = chatgpt_json.conversation({"id": "c", "mapping": {**chain, **answers}})
    assert {each["parent"] for each in rendered(tree)["messages"]} == {None}


def test_half_a_character_is_escaped() -> None:
    """A lone surrogate, which UTF-8 cannot hold, stays the escape it was; everything else is readable."""
    assert b"\\ud800" in readable.render(conversation(message("\ud800")), attached={})
    assert "Wärme 🔥".encode() in readable.render(conversation(message("Wärme 🔥")), attached={})


@given(odd_conversations)
def test_any_conversation_can_be_written(value: dict[str, Any]) -> None:
    """Whatever passes for a conversation becomes JSON whose messages fit together."""
    try:
        tree = chatgpt_json.conversation(value)
    except ValueError:
        return
    messages = {each["id"]: each for each in rendered(tree)["messages"]}
    for each in messages.values():
        assert each["parent"] is None or each["id"] in messages[each["parent"]]["children"]
        assert all(messages[child]["parent"] == each["id"] for child in each["children"])
