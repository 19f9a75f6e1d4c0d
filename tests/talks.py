# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations and the histories that OpenAI's clients hold of them, in few words."""

from __future__ import annotations

from random import Random
from typing import Any, Final

from chatgpt_rest import chatgpt_json
from chatgpt_rest.model import Conversation, Turn
from tests.shapes import MAY_2023, conversation_json, message

CITE: Final = "\ue200cite\ue202turn0search3\ue202turn0search5\ue201"
"""A marker that says nothing by itself."""
CUT: Final = {"finish_details": {"type": "max_tokens"}}
"""Metadata of an answer that goes on in the next message."""

Message = dict[str, Any] | None

_TEXTS: Final = ["", "a", "b", "a b", "ab", f"a{CITE}", "\ud800", " ", "\r\n"]


def turns(*words: str) -> list[Turn]:
    """A history: a prompt, its answer, the next prompt, and so on."""
    return [Turn("user" if index % 2 == 0 else "assistant", text) for index, text in enumerate(words)]


def talk(*words: str, name: str = "c", **members: object) -> Conversation:
    """The conversation, with nodes n0, n1, …, that a client would hold as `turns` of the same words."""
    path = [message(turn.text, role=turn.role) for turn in turns(*words)]
    return chatgpt_json.conversation(conversation_json(*path, conversation_id=name, **members))


def grown(*nodes: tuple[str, str | None, Message], name: str = "c", **members: Any) -> Conversation:
    """A tree of `(node, parent, message)`; its current branch ends with the last one."""
    mapping = {
        key: {"id": key, "parent": parent, "message": said and {**said, "id": key}} for key, parent, said in nodes
    }
    value = {"id": name, "title": "A title", "mapping": mapping, "current_node": nodes[-1][0], **members}
    return chatgpt_json.conversation(value)


def user(words: str) -> Message:
    """A prompt."""
    return message(words, role="user")


def hidden(role: str = "assistant") -> Message:
    """What nobody sees."""
    return message("secret", role=role, recipient="browser", metadata={"is_visually_hidden_from_conversation": True})


def any_tree(random: Random, **members: Any) -> Conversation:
    """A tree with a few of everything, many of its texts alike."""
    nodes: list[tuple[str, str | None, Message]] = []
    for index in range(random.randint(1, 14)):
        said = message(
            random.choice(_TEXTS),
            role=random.choice(["user", "user", "assistant", "assistant", "assistant", "tool", "system"]),
            metadata=random.choice([{}, {}, {}, CUT, {"is_user_system_message": True}]),
            weight=random.choice([1, 1, 1, 1, 0]),
            create_time=MAY_2023 + random.randint(0, 3),
        )
        parent = None if not nodes else random.choice([*nodes[-3:], nodes[0]])[0]
        nodes.append((f"n{index}", parent, random.choice([said, said, said, said, None])))
    return grown(*nodes, **members)
