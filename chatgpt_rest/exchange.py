# SPDX-License-Identifier: GPL-2.0-or-later
"""One prompt and its answer: sent once, continued where that is wished, shown to readers and written down as it comes,
and in the end written down as what it became.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from uuid import uuid4

from chatgpt_rest import branches, chatgpt_json
from chatgpt_rest.errors import (
    AnswerIncomplete,
    AskUncertain,
    BudgetSpent,
    MirrorError,
    NotFound,
    StorageFailed,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamSlow,
)
from chatgpt_rest.live import LiveAsk
from chatgpt_rest.mirror import AccountMirror, AskRecord, AskState
from chatgpt_rest.model import Completeness, Conversation, Node, Question
from chatgpt_rest.transcript import Transcript
from chatgpt_rest.upstream.protocol import Answer, Caller, Upstream

CONTINUATIONS: Final = 8
"""How often one answer is continued: a model that never ends would else spend the whole budget on one question."""

_GROWS_EVERY_SECONDS: Final = 1.0
_BUSY_PAUSES_SECONDS: Final = (1.0, 2.0, 4.0, 8.0)  # "Only one message at a time": the person's own browser is asking

_REFUSALS: Final = frozenset({"upstream_forbidden", "upstream_refused", "upstream_unknown_path"})
"""Of what looks broken, what says for certain that nothing was asked."""

Sleep = Callable[[float], Awaitable[None]]

log = logging.getLogger(__name__)


class Exchange:
    """The ask `ask_id` of this account, which the mirror knows already. Used once: `run`, then `end`."""

    def __init__(
        self,
        upstream: Upstream,
        mirror: AccountMirror,
        caller: Caller,
        *,
        ask_id: str,
        question: Question,
        live: LiveAsk,
        sleep: Sleep,
    ) -> None:
        self._upstream = upstream
        self._mirror = mirror
        self._caller = caller
        self._ask_id = ask_id
        self._question = question
        self._live = live
        self._sleep = sleep
        self.transcript = Transcript()

    async def run(self, *, autocontinue: bool) -> None:
        """Ask, and continue where that is wished. What comes back is whole; how anything else ended is written down.

        Raises UpstreamError and BudgetSpent where the prompt was not taken, AnswerIncomplete where the answer broke
        off, AskUncertain where nobody can tell; so it does where this task is cancelled, which only `drain` does.
        """
        transcript = self.transcript
        try:
            await self._leg(self._question)
            for _ in range(CONTINUATIONS if autocontinue else 0):
                if transcript.finish != "max_tokens" or not await self._continue():
                    break
            if transcript.is_complete:
                return
        except asyncio.CancelledError as error:
            state = AskState.INCOMPLETE if transcript.nodes else AskState.UNCERTAIN
            record = await asyncio.shield(self.close(state))
            raise (_incomplete if transcript.nodes else _uncertain)(record, None) from error
        except (MirrorError, TimeoutError) as error:
            state = _how_it_failed(error, transcript)
            record = await self.close(state)
            log.info("an ask failed account=%s state=%s reason=%s", self._mirror.account, state.value, error)
            if state is AskState.INCOMPLETE:
                raise _incomplete(record, error) from error
            if state is AskState.UNCERTAIN:
                raise _uncertain(record, error) from error
            raise
        except Exception:
            # A fault of ours, and the error middleware's to tell. But the ask has an end all the same.
            await self.close(AskState.INCOMPLETE if transcript.nodes else AskState.UNCERTAIN)
            raise
        raise _incomplete(await self.close(AskState.INCOMPLETE), None)

    async def end(self, state: AskState) -> AskRecord:
        """Write down how it ended, with all that came. Raises StorageFailed."""
        return await self._end(state, self.transcript)

    async def close(self, state: AskState) -> AskRecord:
        """End an ask that did not succeed: without its last words, where these are what cannot be written."""
        try:
            return await self.end(state)
        except StorageFailed:
            raise  # nothing can be written now, and the next start closes what is open
        except Exception:
            log.exception("the last words of an ask could not be written account=%s", self._mirror.account)
            return await self._end(state, Transcript())

    async def _leg(self, question: Question) -> None:
        """One request upstream and its stream. "Only one message at a time" is tried again: nothing was asked then."""
        for pause in (*_BUSY_PAUSES_SECONDS, None):
            try:
                async with self._upstream.ask(self._caller, question) as answer:
                    await self._watch(answer)
            except UpstreamBusy:
                if pause is None or self.transcript.has_grown:
                    raise
                await self._sleep(pause)
            else:
                return

    async def _continue(self) -> bool:
        """Ask upstream to go on writing. False where it will not: the answer so far was paid for, and stands."""
        transcript = self.transcript
        continuation = Question(
            message_id=str(uuid4()),
            prompt="",
            conversation_id=transcript.conversation_id,
            parent_id=transcript.nodes[-1].id,
            model=self._question.model,
            is_continuation=True,
        )
        transcript.begin_continuation()
        self._live.begin_continuation()
        try:
            await self._leg(continuation)
        except (UpstreamError, BudgetSpent) as error:
            if transcript.has_grown:
                raise
            log.info("an answer stays cut account=%s reason=%s", self._mirror.account, error.code)
            transcript.end_continuation()
            return False
        return True

    async def _watch(self, answer: Answer) -> None:
        """Follow a stream to its end for whoever reads along, and write what has come into the mirror once a second,
        events or none.
        """
        has_begun = asyncio.Event()
        scribe = asyncio.create_task(self._write_on(answer, has_begun))
        live = self._live
        try:
            async for text in answer:
                has_begun.set()
                self._name(answer)
                if answer.message_id is not None:
                    live.show(answer.message_id, text)
        finally:
            scribe.cancel()
            await asyncio.wait((scribe,))
            self.transcript.take(answer)
            self._show_rest(answer)
        if not scribe.cancelled() and (error := scribe.exception()) is not None:
            log.error("an answer could not be written as it came account=%s", self._mirror.account, exc_info=error)

    def _show_rest(self, answer: Answer) -> None:
        """Show what came together with what broke the stream off: readers are given all that is kept."""
        self._name(answer)
        for node in answer.nodes():
            said = chatgpt_json.spoken(node)
            if said is not None and said.role == "assistant" and said.text:
                self._live.show(node.id, said.text)

    def _name(self, answer: Answer) -> None:
        if self._live.conversation_id is None and answer.conversation_id is not None:
            self._live.belongs_to(answer.conversation_id)

    async def _write_on(self, answer: Answer, has_begun: asyncio.Event) -> None:
        await has_begun.wait()
        transcript = self.transcript
        written: tuple[Node, ...] = ()
        while True:
            transcript.take(answer)
            if answer.conversation_id is not None and transcript.nodes != written:
                # A full disk must not cost an answer that upstream goes on writing; its end is written once more.
                with suppress(StorageFailed):
                    await self._mirror.asks.grow(
                        self._ask_id, transcript.nodes, conversation_id=answer.conversation_id, title=answer.title
                    )
                    written = transcript.nodes
            await asyncio.sleep(_GROWS_EVERY_SECONDS)

    async def _end(self, state: AskState, transcript: Transcript) -> AskRecord:
        return await self._mirror.asks.end(
            self._ask_id,
            state,
            transcript.nodes,
            conversation_id=transcript.conversation_id,
            title=transcript.title,
        )


async def answer_of(mirror: AccountMirror, record: AskRecord) -> dict[str, Any]:
    """The answer of an ask that ended, now or up to a day ago; of one that broke off where sync has completed it since.
    Raises AnswerIncomplete and AskUncertain.
    """
    try:
        tree = await mirror.conversations.get(record.conversation, even_if_deleted=True)
    except NotFound:  # purged, or its prompt was never more than a draft
        raise _unanswered(record, None) from None
    if record.state is AskState.ANSWERED and record.answer_node is not None:
        return chatgpt_json.answer(tree, record.answer_node)
    below = _below(tree, record.prompt_node)
    end = chatgpt_json.answer_end(below)
    if end is None or any(node.completeness is not Completeness.COMPLETE for node in below):
        raise _unanswered(record, end)
    return chatgpt_json.answer(tree, end.id)


def _below(tree: Conversation, prompt: str) -> list[Node]:
    """What follows a prompt until the next one, of several answers the first."""
    kin, below, at = branches.children(tree.nodes), list[Node](), prompt
    while (children := kin.get(at)) and len(below) < len(tree.nodes):
        node = tree.nodes[children[0]]
        said = chatgpt_json.spoken(node)
        if said is not None and said.role == "user":
            break
        below.append(node)
        at = node.id
    return below


def _unanswered(record: AskRecord, end: Node | None) -> AnswerIncomplete | AskUncertain:
    if record.state is not AskState.INCOMPLETE:
        return _uncertain(record, None)
    return _incomplete(record if end is None else replace(record, answer_node=end.id), None)


def _how_it_failed(error: Exception, transcript: Transcript) -> AskState:
    if transcript.nodes:
        return AskState.INCOMPLETE
    # A connection that was never made carried nothing, and a refusal in so many words is one. All else may have
    # arrived.
    may_have_arrived = isinstance(error, UpstreamBroken | UpstreamSlow | TimeoutError)
    is_refusal = isinstance(error, UpstreamBroken) and error.code in _REFUSALS
    return AskState.UNCERTAIN if may_have_arrived and not is_refusal else AskState.REFUSED


def _incomplete(record: AskRecord, error: Exception | None) -> AnswerIncomplete:
    reason = "" if error is None else f": {error}"
    return AnswerIncomplete(
        f"the answer broke off{reason}; what came is kept in the conversation",
        details={"conversation_id": record.conversation, "message_id": record.answer_node, **_words_of(error)},
    )


def _uncertain(record: AskRecord, error: Exception | None) -> AskUncertain:
    reason = "" if error is None else f" ({error})"
    return AskUncertain(
        f"it is not known whether this prompt arrived{reason}; it is not sent again",
        details={"conversation_id": record.conversation, **_words_of(error)},
    )


def _words_of(error: Exception | None) -> dict[str, object]:
    """What upstream itself said, where that can be told: "context length exceeded" is for the person to know."""
    body = error.body if isinstance(error, MirrorError) else None
    try:
        chatgpt_json.dump(body)
    except ValueError:  # it holds what JSON cannot
        return {}
    return {} if body is None else {"upstream_error": body}
