# SPDX-License-Identifier: GPL-2.0-or-later
"""ChatGPT's JSON: trees, messages, hidden rules, both of its ways to write a time.

Reading never fails for what it does not know: unknown members and content types are kept raw and shown as empty text.
It fails, with ValueError and a reason, only where something is no conversation or no list at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from chatgpt_rest import branches, chatgpt_nodes
from chatgpt_rest.clock import SECOND, iso
from chatgpt_rest.model import (
    Completeness,
    Conversation,
    ListedConversation,
    Node,
    SentMessage,
    Shape,
)

ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", re.ASCII)
"""What may stand in a path: UUIDs, and other servers' words. No dot, slash, percent sign or space ever passes."""

UNTITLED: Final = "New chat"
"""What ChatGPT's own list calls a conversation with no title, or a blank one."""

DELETED_UPSTREAM: Final = "deleted_upstream"
"""Our own mark on a conversation, `true` where it stands."""

DEEPEST: Final = 100
"""Levels that a conversation may be nested; ChatGPT's own have about ten."""

# Members of a message that slim exports (since about spring 2026) leave out.
_FULL_ONLY: Final = frozenset({"status", "weight", "recipient", "end_turn"})
_HIDDEN_TYPES: Final = frozenset(
    {
        "user_editable_context",
        "model_editable_context",
        "thoughts",
        "reasoning_recap",
        "sonic_webpage",
        "system_error",
        "tether_browsing_display",
    }
)
_VISIBLE_TOOL_TYPES: Final = frozenset({"execution_output", "tether_quote"})
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_LATEST_TIME: Final = 253_402_300_799 * SECOND  # the end of the year 9999, the last one that ISO 8601 can write


def is_id(value: str) -> bool:
    """Whether `value` may be pasted into an upstream path."""
    return ID.fullmatch(value) is not None


def dump(value: object) -> bytes:
    """`value` as JSON. A lone surrogate, which UTF-8 cannot hold, stays the escape it was. Raises ValueError for NaN
    and infinities, and for what is nested too deep to be read again.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def printable(text: str | None) -> str | None:
    """`text` as SQLite can hold it: a lone surrogate, which is no character, becomes U+FFFD. The raw JSON keeps it."""
    return None if text is None else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_too_deep(value: object, *, within: int = 0) -> bool:
    """Whether `value` is nested so deep, itself lying `within` so many levels, that what reads or writes it later could
    run out of stack.
    """
    level: list[object] = [value]
    for _ in range(within, DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
        ]
        if not level:
            return False
    return True


def pack(members: Mapping[str, bytes]) -> bytes:
    """Raw members by name as one JSON object."""
    return _object(members.items())


def unpack(packed: bytes) -> dict[str, bytes]:
    """The raw members that `pack` was given, byte for byte as `dump` wrote them."""
    return {name: dump(value) for name, value in json.loads(packed).items()}


def time_us(value: object) -> int | None:
    """A time as ChatGPT writes them: epoch seconds as a number or text, or ISO 8601 (no zone means UTC). None for
    anything else.
    """
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
        else:
            aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
            time = (aware - _EPOCH) // timedelta(microseconds=1)
            return time if 0 <= time <= _LATEST_TIME else None
    # Compared before anything is computed: JSON has integers that no float can hold. NaN fails this too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST_TIME // SECOND:
        return None
    return round(value * SECOND)


# ---------------------------------------------------------------------------------------------------------- reading


def is_other_product(value: object) -> str | None:
    """The product whose export this is an item of, where it is known and not ChatGPT."""
    return "Claude" if isinstance(value, dict) and "chat_messages" in value and "mapping" not in value else None


def conversation(value: object, *, conversation_id: str | None = None) -> Conversation:
    """A whole conversation, of the full or the slim shape. Raises ValueError where it is none, or not the one that was
    asked for.

    What stands in its mapping and is no node at all is kept in the envelope, under `mapping`. The marks that our own
    exports leave are read back.
    """
    if not isinstance(value, dict) or not isinstance(value.get("mapping"), dict):
        raise ValueError("it has no mapping")
    bare = outline(value, conversation_id=conversation_id)
    mapping: dict[str, object] = value["mapping"]
    kin = chatgpt_nodes.kin(mapping)
    left_out = {"mapping", *((DELETED_UPSTREAM,) if bare.is_deleted_upstream else ())}
    envelope = {name: dump(member) for name, member in value.items() if name not in left_out}
    if no_nodes := {key: raw for key, raw in mapping.items() if not isinstance(raw, dict)}:
        envelope["mapping"] = dump(no_nodes)
    nodes = {key: _tree_node(key, _dict(raw), kin.get(key, set())) for key, raw in mapping.items()}
    return replace(bare, nodes=nodes, envelope=envelope)


def outline(value: Mapping[str, Any], *, conversation_id: str | None = None) -> Conversation:
    """What a conversation says of itself, with neither nodes nor envelope. Raises ValueError where it has no id that
    can stand in a path, or not the one that was asked for, or is nested too deep.
    """
    if is_too_deep(value):
        raise ValueError("it is nested too deep")
    own_id = value.get("conversation_id") or value.get("id") or conversation_id
    if not own_id:
        raise ValueError("it has no id")
    if not isinstance(own_id, str) or not is_id(own_id):
        raise ValueError("its id cannot be used here")
    if conversation_id is not None and own_id != conversation_id:
        raise ValueError("it is another conversation than the one asked for")
    told = listed({**value, "id": own_id})
    return Conversation(
        id=own_id,
        title=told.title,
        create_time=told.create_time,
        update_time=told.update_time,
        current_node=_str(value.get("current_node")),
        nodes={},
        is_archived=told.is_archived,
        is_starred=told.is_starred,
        project=told.project,
        model=_str(value.get("default_model_slug")),
        is_deleted_upstream=value.get(DELETED_UPSTREAM) is True,
    )


def node(message: Mapping[str, Any], *, parent: str | None, completeness: Completeness = Completeness.COMPLETE) -> Node:
    """A node for a message that came outside a tree, as a stream shows them. Raises ValueError where the message has no
    id.
    """
    identifier = message.get("id")
    if not isinstance(identifier, str):
        raise ValueError("a message has no id")
    return Node(
        id=identifier,
        parent=parent,
        message=dump(message),
        create_time=time_us(message.get("create_time")),
        shape=shape(message),
        completeness=completeness,
    )


def sent_node(message: SentMessage, *, parent: str | None, create_time: int) -> Node:
    """The node of a message that is about to leave: what is known of it before upstream has answered."""
    raw = {
        "id": message.id,
        "author": {"role": message.role, "name": None, "metadata": {}},
        "create_time": create_time / SECOND,
        "content": {"content_type": "text", "parts": [message.text]},
        "metadata": {"is_user_system_message": True} if message.role == "system" else {},
        "recipient": "all",
    }
    sent = node(raw, parent=parent, completeness=Completeness.UNCONFIRMED)
    # Upstream hides system messages, and its version of this one may no longer say that it is a client's.
    return replace(sent, extra={chatgpt_nodes.FROM_CLIENT: b"true"}) if message.role == "system" else sent


def listed(item: Mapping[str, Any], *, is_archived: bool = False, project: str | None = None) -> ListedConversation:
    """What an item of a list, or a conversation, says of itself. It has a usable id."""
    told = item.get("is_archived")
    return ListedConversation(
        id=item["id"],
        title=_str(item.get("title")),
        create_time=time_us(item.get("create_time")),
        update_time=time_us(item.get("update_time")),
        is_archived=told if isinstance(told, bool) else is_archived,
        is_starred=item.get("is_starred") is True,
        project=project or _str(item.get("conversation_template_id") or item.get("gizmo_id")),
    )


def _tree_node(key: str, members: Mapping[str, Any], kin: Set[str]) -> Node:
    message = members.get("message")
    marks = chatgpt_nodes.marks(members)
    return Node(
        id=key,
        parent=chatgpt_nodes.parent(members.get("parent")),
        message=None if message is None else dump(message),
        children=chatgpt_nodes.children(members.get("children")),
        extra={
            name: dump(value)
            for name, value in members.items()
            if name not in marks and not chatgpt_nodes.is_held(name, value, key=key, kin=kin)
        },
        create_time=time_us(message.get("create_time")) if isinstance(message, dict) else None,
        shape=shape(message) if isinstance(message, dict) else Shape.FULL,
        completeness=chatgpt_nodes.completeness(marks),
        is_absent_upstream=chatgpt_nodes.ABSENT_UPSTREAM in marks,
    )


def shape(message: Mapping[str, Any]) -> Shape:
    """How much of it ChatGPT wrote."""
    return Shape.SLIM if _FULL_ONLY.isdisjoint(message) else Shape.FULL


# ---------------------------------------------------------------------------------------------------------- messages


def text(message: Mapping[str, Any]) -> str:
    """The words of a message as ChatGPT wrote them, markers included; `""` for types that are not plain words."""
    content = _dict(message.get("content"))
    kind = _content_type(message)
    if kind in {"text", "multimodal_text"}:
        parts = content.get("parts")
        return "\n".join(part for part in parts if isinstance(part, str)) if isinstance(parts, list) else ""
    if kind in {"code", "execution_output"}:
        words = (content.get("text"), _dict(message.get("metadata")).get("finished_text"))
        return next((each for each in words if isinstance(each, str)), "")
    return ""


def is_hidden(message: object) -> bool:
    """Whether ChatGPT's own page leaves this message out. A matter of view: everything is stored."""
    if not isinstance(message, dict):
        return True
    metadata, kind = _dict(message.get("metadata")), _content_type(message)
    if metadata.get("is_visually_hidden_from_conversation") or message.get("weight") == 0 or kind in _HIDDEN_TYPES:
        return True
    match _dict(message.get("author")).get("role"):
        case "system":
            return not metadata.get("is_user_system_message")
        case "assistant":
            return message.get("recipient") not in (None, "all")
        case "tool":
            return kind not in _VISIBLE_TOOL_TYPES and not _has_image(message)
    return False


def messages(tree: Conversation, end: str | None = None) -> list[dict[str, Any]]:
    """The visible messages of the branch that ends at `end` (else of the current one), oldest first, in the seed's
    shape.

    An answer that was cut by `max_tokens` and went on in the next message is one message here, as on ChatGPT's page:
    joined without a seam, under the id of the part that ended it.
    """
    shown: list[dict[str, Any]] = []
    cut: str | None = None
    for each in branches.branch(tree.nodes, end or branches.leaf(tree)):
        raw = _message(each)
        if is_hidden(raw):
            continue
        entry = _message_object(each, raw, conversation_id=tree.id)
        if cut is not None and each.parent == cut and entry["author"].get("role") == "assistant":
            entry = _joined(shown.pop(), entry)
        is_cut = entry["finish_details"] == "max_tokens" and entry["author"].get("role") == "assistant"
        cut = each.id if is_cut else None
        shown.append(entry)
    return shown


def answer(tree: Conversation, end: str) -> dict[str, Any]:
    """What an ask that ended at node `end` answers with: the same object that ends `messages`, even where that node
    itself is hidden.
    """
    shown = messages(tree, end)
    if shown and shown[-1]["id"] == end:
        return shown[-1]
    return _message_object(tree.nodes[end], _message(tree.nodes[end]), conversation_id=tree.id)


def answer_end(nodes: Sequence[Node]) -> Node | None:
    """Of what an answer's stream has shown, the message that is the answer: the last visible one of the assistant's or
    its tools' (an image is a tool's), else the assistant's last one, else the last of all. Hidden notes can follow it.
    """
    roles = [_dict(_message(each).get("author")).get("role") for each in nodes]
    said = [each for each, role in zip(nodes, roles, strict=True) if role in ("assistant", "tool")]
    visible = [each for each in said if not is_hidden(_message(each))]
    by_assistant = [each for each, role in zip(nodes, roles, strict=True) if role == "assistant"]
    return next((found[-1] for found in (visible, by_assistant, nodes) if found), None)


class Spoken(NamedTuple):
    """What people see of a node: who says it (`system`, `user`, `assistant`, `tool`, …), and the words."""

    role: str
    text: str
    is_cut: bool
    """`max_tokens` cut it: what the assistant says right below goes on without a seam."""


def spoken(each: Node) -> Spoken | None:
    """None where people see nothing of it. A client's own system message speaks, whatever upstream makes of it."""
    raw = _message(each)
    metadata = _dict(raw.get("metadata"))
    if is_hidden(raw) and chatgpt_nodes.FROM_CLIENT not in each.extra:
        return None
    role = (_dict(metadata.get("author")) or _dict(raw.get("author"))).get("role", "assistant")
    is_cut = _dict(metadata.get("finish_details")).get("type") == "max_tokens"
    return Spoken(role if isinstance(role, str) else "", text(raw), is_cut)


def _message_object(each: Node, raw: Mapping[str, Any], *, conversation_id: str) -> dict[str, Any]:
    metadata = _dict(raw.get("metadata"))
    author = _dict(metadata.get("author")) or _dict(raw.get("author"))
    citations = metadata.get("citations")
    shown = {
        "author": {"role": "assistant", "name": None, "metadata": {}, **author},
        "message": text(raw),
        "conversation_id": conversation_id,
        "parent_id": each.id,  # the message's own id: what a client sends back to go on from here
        "model": _str(metadata.get("model_slug")),
        "finish_details": _str(_dict(metadata.get("finish_details")).get("type")),
        "end_turn": raw.get("end_turn", True),
        "recipient": raw.get("recipient", "all"),
        "citations": citations if isinstance(citations, list) else [],
        "id": each.id,
        "create_time": raw.get("create_time"),
        "content": raw.get("content"),
    }
    if isinstance(usage := metadata.get("usage"), dict):  # the tokens that an OpenAI API has counted
        shown["usage"] = usage
    return shown if each.completeness is Completeness.COMPLETE else {**shown, "is_partial": True}


def _joined(cut: Mapping[str, Any], rest: Mapping[str, Any]) -> dict[str, Any]:
    words = cut["message"] + rest["message"]
    return {**rest, "message": words, "content": {**_dict(rest["content"]), "parts": [words]}}


def _message(each: Node) -> dict[str, Any]:
    raw = None if each.message is None else json.loads(each.message)
    return raw if isinstance(raw, dict) else {"weight": 0}


def _content_type(message: Mapping[str, Any]) -> str | None:
    return _str(_dict(message.get("content")).get("content_type"))


def _has_image(message: Mapping[str, Any]) -> bool:
    parts = _dict(message.get("content")).get("parts")
    return isinstance(parts, list) and any(_dict(part).get("content_type") == "image_asset_pointer" for part in parts)


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _str(value: object) -> str | None:
    return value if isinstance(value, str) else None


# ----------------------------------------------------------------------------------------------------------- writing


def list_entry(listed: ListedConversation, *, deletion: tuple[int | None, bool] | None = None) -> dict[str, object]:
    """One row of `GET /conversations`, as the seed documents it. Where ChatGPT gave only one of the two times, it
    serves as both. With `deletion` it also says when it was deleted here, if it was, and whether it is gone upstream.
    """
    create_time = listed.create_time if listed.create_time is not None else listed.update_time
    update_time = listed.update_time if listed.update_time is not None else listed.create_time
    entry: dict[str, object] = {
        "id": listed.id,
        "title": listed.title if listed.title and not listed.title.isspace() else UNTITLED,
        "create_time": None if create_time is None else iso(create_time),
        "update_time": None if update_time is None else iso(update_time),
        "mapping": None,
        "current_node": None,
    }
    if deletion is None:
        return entry
    deleted_at, is_gone_upstream = deletion
    return {
        **entry,
        "deleted_at": None if deleted_at is None else iso(deleted_at),
        "deleted_upstream": is_gone_upstream,
    }


def whole(tree: Conversation) -> bytes:
    """The conversation in ChatGPT's own full shape, as JSON, every member and message byte for byte as it came.

    What the mirror knows better stands in place of what came: the title, the current node, each node's `children`,
    and an update time that the conversation got since.
    """
    kin = branches.children(tree.nodes)
    members = {
        **tree.envelope,
        "conversation_id": dump(tree.id),
        "title": dump(tree.title),
        "is_archived": dump(tree.is_archived),
        "current_node": dump(branches.leaf(tree)),
        "mapping": _object((key, _whole_node(each, kin[key])) for key, each in tree.nodes.items()),
    }
    members.setdefault("create_time", dump(_seconds(tree.create_time)))
    if "update_time" not in members or time_us(json.loads(members["update_time"])) != tree.update_time:
        members["update_time"] = dump(_seconds(tree.update_time))
    if tree.is_deleted_upstream:
        members[DELETED_UPSTREAM] = b"true"
    return _object(members.items())


def _whole_node(each: Node, kin: Sequence[str]) -> bytes:
    members = {
        "id": dump(each.id),
        "message": each.message or b"null",
        "parent": dump(each.parent),
        "children": dump(kin),
        **{name: value for name, value in each.extra.items() if name not in chatgpt_nodes.HELD},
    }
    if each.completeness is not Completeness.COMPLETE:
        members[chatgpt_nodes.PARTIAL] = b"true"
    return _object(members.items())


def _object(members: Iterable[tuple[str, bytes]]) -> bytes:
    return b"{" + b",".join(dump(key) + b":" + value for key, value in members) + b"}"


def _seconds(time: int | None) -> float | None:
    return None if time is None else time / SECOND
