# SPDX-License-Identifier: GPL-2.0-or-later
"""ChatGPT's JSON as tests write it, in both shapes, and anything else that JSON can be."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from chatgpt_rest import chatgpt_json
from chatgpt_rest.model import Conversation

MAY_2023: Final = 1_685_293_988.233528
"""A time as ChatGPT writes it: a float of epoch seconds."""


def message(words: object = "Hello.", *, role: str = "assistant", **members: object) -> dict[str, Any]:
    """A message of the full shape; `members` replace its own."""
    return {
        "id": "message",
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": MAY_2023,
        "update_time": None,
        "content": {"content_type": "text", "parts": [words]},
        "status": "finished_successfully",
        "end_turn": True,
        "weight": 1.0,
        "metadata": {},
        "recipient": "all",
        "channel": None,
        **members,
    }


def slim_message(words: object = "Hello.", *, role: str = "assistant", **members: object) -> dict[str, Any]:
    """A message as exports since 2026 hold it."""
    return {
        "id": "message",
        "author": {"role": role, "name": None},
        "create_time": MAY_2023,
        "content": {"content_type": "text", "parts": [words]},
        **members,
    }


def conversation_json(
    *path: dict[str, Any] | None, conversation_id: str = "conversation", **members: object
) -> dict[str, Any]:
    """A conversation whose one branch is `path`: nodes n0, n1, … with these messages, slim if they have no children."""
    ids = [f"n{index}" for index in range(len(path))]
    mapping = {
        key: {
            "id": key,
            "message": None if each is None else {**each, "id": key},
            "parent": ids[index - 1] if index else None,
            "children": ids[index + 1 : index + 2],
        }
        for index, (key, each) in enumerate(zip(ids, path, strict=True))
    }
    return {
        "title": "A title",
        "create_time": MAY_2023,
        "update_time": MAY_2023,
        "mapping": mapping,
        "current_node": ids[-1] if ids else None,
        "conversation_id": conversation_id,
        "id": conversation_id,
        **members,
    }


def conversation(
    *path: dict[str, Any] | None, conversation_id: str = "conversation", **members: object
) -> Conversation:
    """What is read of `conversation_json`."""
    return chatgpt_json.conversation(conversation_json(*path, conversation_id=conversation_id, **members))


def linked(**parents: str | None) -> Conversation:
    """A conversation of empty nodes, each under the parent that it names."""
    mapping = {key: {"id": key, "message": None, "parent": parent} for key, parent in parents.items()}
    return chatgpt_json.conversation({"id": "conversation", "mapping": mapping})


def shown(*path: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The messages that a reader of this one branch sees."""
    return chatgpt_json.messages(conversation(*path))


words = st.text(st.characters(codec=None), max_size=12)
"""Any text that JSON can hold, lone surrogates included."""

json_values: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**400), 10**400) | st.floats() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
"""Anything that Python's parser of JSON can answer, NaN and infinities included."""


def _odd(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={key: json_values | value for key, value in members.items()})


_keys = st.sampled_from(["a", "b", "c", "d", "\ud800"])
_types = st.sampled_from(["text", "code", "multimodal_text", "execution_output", "thoughts", "tether_quote"])
_content = _odd(content_type=_types, parts=st.lists(json_values, max_size=3), text=words)
_messages = _odd(
    id=_keys,
    author=_odd(role=st.sampled_from(["user", "assistant", "tool", "system"]), metadata=json_values),
    create_time=st.floats(),
    content=_content,
    metadata=_odd(finish_details=_odd(type=st.just("max_tokens")), model_slug=words, author=_odd(role=words)),
    recipient=st.just("all"),
    weight=st.just(0),
)
_nodes = _odd(message=_messages, parent=_keys, children=st.lists(_keys | json_values, max_size=3))
odd_conversations: Final = _odd(
    id=_keys,
    conversation_id=_keys,
    mapping=st.dictionaries(_keys, _nodes | json_values, max_size=5),
    current_node=_keys,
    title=words,
    create_time=st.floats(),
    update_time=st.text("0123456789-:.TZ+ne", max_size=20),
)
"""What may pass for a conversation at first sight, each of its members right, wrong or missing."""

odd_lists: Final = _odd(
    items=st.lists(_odd(id=_keys, title=words, update_time=words) | json_values, max_size=4),
    limit=st.integers(-1, 3),
    total=json_values,
)
"""What may pass for a page of a list."""
