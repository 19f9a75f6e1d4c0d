# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations as ChatGPT keeps them: a tree of nodes, the node a reader is at, and what lists say of them."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal

from .answers import answer_to
from .messages import DEFAULT_MODEL, Json, assistant_message, hidden_system_message, text, text_of, user_message

TimeForm = Literal["mixed", "Z", "+00:00", "naive", "absent"]
"""How lists write times: one of two ISO forms by conversation, always one of them, or as some compatible servers do:
with no zone, and (`absent`) with no time of the update either."""

NEW_TITLE: Final = "New chat"
SECONDS_PER_MESSAGE: Final = 11.0
LIST_STEP_SECONDS: Final = 1.0


def stable_uuid(*names: object) -> str:
    """A UUID that looks random and is the same for the same names in every run."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


class SimConversation:
    """A conversation in the simulated ChatGPT; tests change it as a person would in the browser.

    Times are epoch seconds. Every change moves `update_time` on by at least a second: lists show whole seconds, and a
    change that they do not show could be noticed by nobody.
    """

    def __init__(
        self,
        title: str | None,
        *,
        now: Callable[[], float],
        conversation_id: str | None = None,
        at: float | None = None,
        model: str = DEFAULT_MODEL,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self.id = conversation_id or str(uuid.uuid4())
        self.title = title
        self.create_time = now() if at is None else at
        self.update_time = self.create_time
        self.is_archived = False
        self.is_starred: bool | None = None
        self.is_visible = True
        self.model = model
        self.gizmo_id: str | None = None
        self.gizmo_type: str | None = None
        self.unfinished: dict[str, list[str]] = {}
        """What is still to come of answers that were cut, by the id of the node that was cut."""
        self.new_id = new_id or random_id
        self._now = now
        root = self.new_id()
        self.mapping: dict[str, Json] = {root: {"id": root, "message": None, "parent": None, "children": []}}
        self.current_node = root
        self.append(hidden_system_message(self.new_id()))

    @property
    def is_listed(self) -> bool:
        """Whether the plain list shows it: neither deleted nor archived nor inside a project."""
        return self.is_visible and not self.is_archived and not self.is_in_project

    @property
    def is_in_project(self) -> bool:
        return self.gizmo_type == "snorlax"

    def append(self, message: Json, *, parent: str | None = None) -> str:
        """Hang a message below `parent` (by default where the reader is), go there, and return its node's id."""
        below = self.current_node if parent is None else parent
        node_id: str = message["id"]
        if node_id in self.mapping:
            # A client that sends a prompt again keeps its id: the answer becomes a sibling of the first one's.
            self.current_node = node_id
            return node_id
        self.mapping[node_id] = {"id": node_id, "message": message, "parent": below, "children": []}
        self.mapping[below]["children"].append(node_id)
        self.current_node = node_id
        return node_id

    def add_turn(
        self, prompt: str, answer: str | None = None, *, at: float | None = None, parent: str | None = None
    ) -> str:
        """A prompt and its answer below `parent` (by default the current node); returns the answer's id."""
        asked_at = self._now() if at is None else at
        self.append(user_message(self.new_id(), text(prompt), at=asked_at), parent=parent)
        answered_at = None if at is None else at + SECONDS_PER_MESSAGE
        return self.add_answer(answer_to(prompt) if answer is None else answer, at=answered_at)

    def add_answer(self, answer: str, *, at: float | None = None, metadata: Json | None = None) -> str:
        """An assistant's message below the current node; returns its id. `at` is then also the time of the update."""
        answered_at = self._now() if at is None else at
        said = assistant_message(
            self.new_id(),
            answer,
            at=answered_at,
            model=self.model,
            parent_id=self.current_node,
            metadata=metadata,
        )
        if at is None:
            self.touch()
        else:
            self.update_time = max(self.update_time, at)
        return self.append(said)

    def regenerate(self, answer: str | None = None) -> str:
        """Answer the last prompt once more: a sibling of the answer there was. Returns the new answer's id."""
        prompt_id = self.last("user")
        prompt = text_of(self.mapping[prompt_id]["message"]["content"])
        self.current_node = prompt_id
        return self.add_answer(answer or f"Put differently: {answer_to(prompt)}")

    def edit_prompt(self, prompt: str, answer: str | None = None) -> str:
        """Ask the last prompt in other words: a sibling of it, with an answer. Returns the new answer's id."""
        return self.add_turn(prompt, answer, parent=self.mapping[self.last("user")]["parent"])

    def rename(self, title: str | None) -> None:
        self.title = title
        self.touch()

    def archive(self, *, archived: bool = True) -> None:
        self.is_archived = archived
        self.touch()

    def delete(self) -> None:
        """As ChatGPT deletes: the conversation becomes invisible, and its id answers 404 ever after."""
        self.is_visible = False

    def touch(self) -> None:
        """Note that something changed."""
        self.update_time = max(self._now(), self.update_time + LIST_STEP_SECONDS)

    def branch(self, leaf: str | None = None) -> list[Json]:
        """The messages from the root to `leaf` (by default the current node), those that nobody sees included."""
        path: list[Json] = []
        node_id: str | None = self.current_node if leaf is None else leaf
        while node_id is not None:
            node = self.mapping[node_id]
            if node.get("message") is not None:  # a root of 2023 has no such key
                path.append(node["message"])
            node_id = node.get("parent")
        return path[::-1]

    def roles_to(self, leaf: str) -> set[str]:
        """Who has spoken on the way from the root to this node."""
        return {message["author"]["role"] for message in self.branch(leaf)}

    def last(self, role: str) -> str:
        """The id of the last message of this role on the current branch."""
        return str([message["id"] for message in self.branch() if message["author"]["role"] == role][-1])

    def detail(self) -> Json:
        """What GET conversation/{id} answers."""
        return {
            "title": self.title,
            "create_time": self.create_time,
            "update_time": self.update_time,
            "mapping": self.mapping,
            "moderation_results": [],
            "current_node": self.current_node,
            "plugin_ids": None,
            "conversation_id": self.id,
            "conversation_template_id": self.gizmo_id,
            "gizmo_id": self.gizmo_id,
            "gizmo_type": self.gizmo_type,
            "is_archived": self.is_archived,
            "is_starred": self.is_starred,
            "safe_urls": [],
            "blocked_urls": [],
            "default_model_slug": self.model,
            "conversation_origin": None,
            "voice": None,
            "async_status": None,
            "disabled_tool_ids": [],
            "is_do_not_remember": False,
            "is_read_only": None,
            "is_study_mode": False,
            "memory_scope": "global_enabled",
            "pinned_time": None,
        }

    def list_item(self, times: TimeForm) -> Json:
        """What lists say of it. Creation shows microseconds, the update whole seconds, as upstream's lists do."""
        zone = {"Z": "Z", "+00:00": "+00:00", "naive": "", "absent": ""}.get(times)
        if zone is None:
            zone = "Z" if int(hashlib.sha256(self.id.encode()).hexdigest(), 16) % 2 else "+00:00"
        item: Json = {
            "id": self.id,
            "title": self.title,
            "create_time": _iso(self.create_time, "microseconds") + zone,
            "update_time": _iso(self.update_time, "seconds") + zone,
            "mapping": None,
            "current_node": None,
            "conversation_template_id": self.gizmo_id,
            "gizmo_id": self.gizmo_id,
            "is_archived": self.is_archived,
            "is_starred": self.is_starred,
            "is_do_not_remember": False,
            "memory_scope": "global_enabled",
            "workspace_id": None,
            "async_status": None,
            "safe_urls": [],
            "blocked_urls": [],
            "conversation_origin": None,
            "pinned_time": None,
            "snippet": None,
        }
        if times == "absent":
            del item["update_time"]
        return item


def random_id() -> str:
    """A new id, for what is added while the simulation runs."""
    return str(uuid.uuid4())


def _iso(seconds: float, precision: str) -> str:
    """ISO 8601 in UTC, without the zone; whole seconds are cut, not rounded."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec=precision)
