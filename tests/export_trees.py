# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations as exports hold them: trees with forks, in both shapes, and whatever odd thing has been seen of them.

Written after the description of the format alone: nothing of the program is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal

from tests.export_messages import Json, Pen, slim

Shape = Literal["full", "slim"]

_FULL_ONLY: Final = (
    "gizmo_id", "gizmo_type", "conversation_origin", "async_status", "safe_urls", "blocked_urls", "moderation_results",
)  # fmt: skip


def conversation(pen: Pen, kinds: Sequence[Callable[[Pen], Json]]) -> Json:
    """A conversation of the full shape whose turns hold these kinds of messages, with an edit and a regeneration."""
    root, system = pen.uuid(), pen.text("system", "", create_time=None)
    mapping: Json = {root: {"id": root, "message": None, "parent": None, "children": []}}
    began = pen.now()
    leaf = _hang(mapping, system, root)
    for number, kind in enumerate(kinds):
        asked = _hang(mapping, pen.text("user"), leaf)
        if number == 0:
            _hang(mapping, pen.text("user", "Was that what I wanted to ask?"), leaf)  # a fork: the prompt, edited
        leaf = _hang(mapping, kind(pen), asked)
        if number == 1:
            leaf = _hang(mapping, pen.text("assistant", "Again, differently."), asked)  # a fork: regenerated
    name = pen.uuid()
    return {
        "title": pen.words(6),
        "create_time": began,
        "update_time": pen.now(),
        "mapping": mapping,
        "moderation_results": [],
        "current_node": leaf,
        "plugin_ids": None,
        "conversation_id": name,
        "conversation_template_id": pen.random.choice([None, "g-p-0123456789abcdef", "g-custom"]),
        "gizmo_id": None,
        "gizmo_type": None,
        "is_archived": pen.random.random() < 0.2,
        "is_starred": pen.random.choice([None, False, True]),
        "safe_urls": ["https://example.org/"],
        "blocked_urls": [],
        "default_model_slug": pen.random.choice(["gpt-4o", "auto", None]),
        "conversation_origin": None,
        "voice": None,
        "async_status": None,
        "disabled_tool_ids": [],
        "is_do_not_remember": None,
        "is_read_only": None,
        "is_study_mode": False,
        "memory_scope": "global_enabled",
        "pinned_time": None,
        "id": name,
    }


def slimmed(full: Json) -> Json:
    """The same conversation as exports since 2026 have it."""
    members = {name: value for name, value in full.items() if name not in _FULL_ONLY}
    if "mapping" in full:
        members["mapping"] = {key: _slim_node(node) for key, node in full["mapping"].items()}
    return members


def messages(conversation: Json) -> Iterator[Json]:
    """The messages of its nodes."""
    for node in conversation["mapping"].values():
        if node is not None and node.get("message") is not None:
            yield node["message"]


def go_on(pen: Pen, conversation: Json) -> Json:
    """The same conversation a turn later, in the full shape."""
    mapping = {
        key: node and {**node, "children": list(node.get("children") or [])}
        for key, node in conversation["mapping"].items()
    }
    parent = conversation.get("current_node")
    asked = _hang(mapping, pen.text("user", "And then?"), parent if parent in mapping else None)
    leaf = _hang(mapping, pen.text("assistant"), asked)
    update_time = max(float(conversation["update_time"] or 0), pen.time) + 60.25
    return {**conversation, "mapping": mapping, "current_node": leaf, "update_time": update_time}


def _hang(mapping: Json, message: Json, parent: str | None) -> str:
    key: str = message["id"]
    mapping[key] = {"id": key, "message": message, "parent": parent, "children": []}
    if parent is not None:
        mapping[parent]["children"].append(key)
    return key


def _slim_node(node: Json | None) -> Json | None:
    if node is None:
        return None
    kept = {name: value for name, value in node.items() if name != "children"}
    return kept if node.get("message") is None else {**kept, "message": slim(node["message"])}


# ---------------------------------------------------------------------------------------------------------- oddities


def _bare_root(_: Pen, odd: Json) -> None:
    root = next(iter(odd["mapping"].values()))
    del root["parent"], root["message"]


def _childless(_: Pen, odd: Json) -> None:
    for node in odd["mapping"].values():
        del node["children"]


def _no_current_node(_: Pen, odd: Json) -> None:
    odd["current_node"] = None


def _missing_current_node(_: Pen, odd: Json) -> None:
    del odd["current_node"]


def _dangling_current_node(pen: Pen, odd: Json) -> None:
    odd["current_node"] = pen.uuid()


def _hidden_current_node(pen: Pen, odd: Json) -> None:
    hidden = pen.text("assistant", metadata={"is_visually_hidden_from_conversation": True})
    odd["current_node"] = _hang(odd["mapping"], hidden, odd["current_node"])


def _only_id(_: Pen, odd: Json) -> None:
    del odd["conversation_id"]


def _only_conversation_id(_: Pen, odd: Json) -> None:
    del odd["id"]


def _two_ids(pen: Pen, odd: Json) -> None:
    odd["id"] = pen.uuid()


def _title(title: str | None) -> Callable[[Pen, Json], None]:
    def entitle(_: Pen, odd: Json) -> None:
        odd["title"] = title

    return entitle


def _untitled(_: Pen, odd: Json) -> None:
    del odd["title"]


def _whole_seconds(_: Pen, odd: Json) -> None:
    odd["create_time"], odd["update_time"] = 1_700_000_000, 1_700_000_060


def _fractions(_: Pen, odd: Json) -> None:
    odd["create_time"], odd["update_time"] = 1_700_000_000.123456, 1_700_000_000.1234567


def _timeless(_: Pen, odd: Json) -> None:
    odd["create_time"] = odd["update_time"] = None
    for message in messages(odd):
        message["create_time"] = None


def _beyond_64_bits(_: Pen, odd: Json) -> None:
    odd["moderation_state"] = {"flags": 2**64 + 1, "less": -(2**70)}
    odd["pinned_time"] = 2**80


def _pinned(_: Pen, odd: Json) -> None:
    odd["pinned_time"] = "2026-01-31T23:59:59.999999Z"


def _pinned_in_seconds(_: Pen, odd: Json) -> None:
    odd["pinned_time"] = 1_769_904_000.654321


def _with_plugins(_: Pen, odd: Json) -> None:
    odd["plugin_ids"] = ["plugin-d1d6eb04", "plugin-0a1b2c3d"]


def _with_voice(pen: Pen, odd: Json) -> None:
    odd["voice"] = pen.random.choice(["breeze", {"name": "ember", "speed": 1.1, "": None}])


def _of_a_project(_: Pen, odd: Json) -> None:
    odd["conversation_template_id"] = odd["gizmo_id"] = "g-p-67aa1d4c0b1881918f2b"
    odd["gizmo_type"] = "snorlax"


def _orphan(pen: Pen, odd: Json) -> None:
    _hang(odd["mapping"], pen.text("user", "My parent is not here."), None)
    list(odd["mapping"].values())[-1]["parent"] = pen.uuid()


def _cycle(pen: Pen, odd: Json) -> None:
    first = _hang(odd["mapping"], pen.text("user", "after the second"), None)
    second = _hang(odd["mapping"], pen.text("assistant", "after the first"), first)
    odd["mapping"][first]["parent"] = second
    odd["mapping"][second]["children"] = [first]


def _own_parent(pen: Pen, odd: Json) -> None:
    key = _hang(odd["mapping"], pen.text("user", "I am my own parent."), None)
    odd["mapping"][key]["parent"] = key


def _several_roots(pen: Pen, odd: Json) -> None:
    _hang(odd["mapping"], pen.text("user", "Another root."), None)


def _dangling_children(pen: Pen, odd: Json) -> None:
    for node in odd["mapping"].values():
        node["children"] = [pen.uuid(), *node["children"]]


def _more_of_a_node(_: Pen, odd: Json) -> None:
    for number, node in enumerate(odd["mapping"].values()):
        node["weight"], node["x y"] = 0.1 * number, {"nested": [None, "\0"]}


def _node_of_another_name(pen: Pen, odd: Json) -> None:
    list(odd["mapping"].values())[-1]["id"] = pen.uuid()


def _nameless_nodes(_: Pen, odd: Json) -> None:
    for node in odd["mapping"].values():
        del node["id"]


def _no_node(pen: Pen, odd: Json) -> None:
    odd["mapping"][pen.uuid()] = None


def _message_of_another_name(pen: Pen, odd: Json) -> None:
    list(odd["mapping"].values())[-1]["message"]["id"] = pen.uuid()


def _empty(_: Pen, odd: Json) -> None:
    odd["mapping"], odd["current_node"] = {}, None


def _plain(_: Pen, __: Json) -> None:
    """Nothing is odd about it."""


ODDITIES: Final[tuple[Callable[[Pen, Json], None], ...]] = (
    _plain, _bare_root, _childless, _no_current_node, _missing_current_node, _dangling_current_node,
    _hidden_current_node, _only_id, _only_conversation_id, _two_ids, _title(None), _title(""), _title(" \t "),
    _title("two\r\nlines"), _title("unassigned \u0378 \U000e0fff"), _title("half \ud83d of one"),
    _title("NUL \0 inside"), _untitled, _whole_seconds, _fractions, _timeless, _beyond_64_bits, _pinned,
    _pinned_in_seconds, _with_plugins, _with_voice, _of_a_project, _orphan, _cycle, _own_parent, _several_roots,
    _dangling_children, _more_of_a_node, _node_of_another_name, _nameless_nodes, _message_of_another_name,
    _no_node, _empty,
)  # fmt: skip
"""Each of them makes one odd thing of a conversation, which is still to be imported whole."""
