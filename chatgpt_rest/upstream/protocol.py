# SPDX-License-Identifier: GPL-2.0-or-later
"""What the rest of the program sees of upstream. `revchatgpt.py` is the implementation; tests of sync write their
own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from chatgpt_rest.errors import UpstreamError
from chatgpt_rest.model import Conversation, ListPage, Model, Node, ProjectPage, Question, Secret

LARGEST_PAGE: Final = 100
"""How many conversations upstream lists at once; it refuses to list more."""


class Receipt(Protocol):
    """One token taken for one HTTP request."""

    async def arrived(self, outcome: int | str) -> None:
        """Upstream has the request by now: its response's status, or the name of the fault that ended the attempt."""


class Gate(Protocol):
    """The one way out. It is asked before every single HTTP request, and a token it gave is never given back."""

    async def take(self, method: str, path: str) -> Receipt:
        """Take one token for `method` `path` (a template, no ids in it). Raises BudgetSpent; then nothing may leave."""

    async def refused(self, error: UpstreamError, *, model: str | None = None) -> None:
        """Upstream said no to what was let out. What it says of the token or of limits holds for what comes after.

        Called once for each UpstreamError, before it is raised; `model` is the one that was asked.
        """


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request goes upstream: a token, and the gate that counts for its account."""

    account: str
    token: Secret
    gate: Gate


FindCaller = Callable[[], Awaitable[Caller]]
"""Asked only where something really goes upstream: who has no token at hand reads the mirror all the same."""


class Answer(Protocol):
    """An answer as it comes. Iterating gives the text so far, each time longer
    (from the beginning again where the assistant starts another message); the rest is a snapshot of what has
    come.
    """

    @property
    def conversation_id(self) -> str | None:
        """None until upstream's first event."""

    @property
    def message_id(self) -> str | None:
        """The message that the text which iterating gave last belongs to; None until then."""

    @property
    def title(self) -> str | None:
        """The title upstream gave a new conversation in mid-stream, where it did."""

    @property
    def finish(self) -> str | None:
        """`stop`, `max_tokens`, … as upstream said it; None until then."""

    @property
    def is_complete(self) -> bool:
        """At least one event of the assistant, no error, and `[DONE]` or a finish or an end of turn."""

    def nodes(self) -> tuple[Node, ...]:
        """Every message the stream has shown, oldest first, the last one PARTIAL unless the answer is complete.

        Parents are what `metadata.parent_id` says, else the message before; the first one's is the prompt (or, in a
        continuation, the answer that is continued). The prompt itself is among them only where upstream echoed it.
        """

    def __aiter__(self) -> AsyncIterator[str]:
        """Raises UpstreamError (see the tree) where the stream breaks; what came before stays in `nodes()`."""


class Upstream(Protocol):
    """ChatGPT. Every method but `ask` sends exactly one HTTP request; `ask` sends exactly one as its context is
    entered.

    `keeps_conversations` is false for one that only answers (an OpenAI API): what is asked there lives in the mirror
    alone, each question brings its history along, answers may be written side by side, and nothing but `ask` and
    `models` is ever called.

    All raise UpstreamError, and BudgetSpent where the caller's gate refuses. Ids are checked against a strict pattern
    before any use (BadRequest): one that is pasted into a path could turn "delete this" into "delete all".

    The plain list holds neither archived conversations nor those in projects. Not every server lists these: one that
    does not answers UpstreamNotFound, UpstreamRejected, or UpstreamBroken with the code `upstream_unknown_path`.
    """

    keeps_conversations: bool

    async def list_page(self, caller: Caller, *, offset: int, limit: int, is_archived: bool = False) -> ListPage: ...

    async def list_projects(self, caller: Caller, *, cursor: str | None = None) -> ProjectPage:
        """The account's projects, from the first one or from where the page before says that the next begins."""

    async def list_project(self, caller: Caller, project_id: str, *, cursor: str | None = None) -> ListPage:
        """A project's conversations, newest update first, paged as the projects are."""

    async def conversation(self, caller: Caller, conversation_id: str) -> Conversation: ...

    def ask(self, caller: Caller, question: Question) -> AbstractAsyncContextManager[Answer]: ...

    async def edit(
        self, caller: Caller, conversation_id: str, *, title: str | None = None, is_archived: bool | None = None
    ) -> None: ...

    async def delete(self, caller: Caller, conversation_id: str) -> None: ...

    async def delete_all(self, caller: Caller) -> None: ...

    async def models(self, caller: Caller) -> tuple[Model, ...]:
        """The models that this account may ask, in upstream's order."""

    async def aclose(self) -> None: ...
