# SPDX-License-Identifier: GPL-2.0-or-later
"""One ask as a task of its own: written down before it leaves, written on as it comes, awaited by any number of
readers.

A client that hangs up changes nothing. A prompt is sent at most once: where the line broke so that nobody can tell
whether it arrived, the ask ends as uncertain, and the conversation is fetched before anyone builds on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, TypeVar
from uuid import uuid4

from chatgpt_rest import branches, chatgpt_json
from chatgpt_rest.clock import SECOND
from chatgpt_rest.errors import (
    AnswerIncomplete,
    AskUncertain,
    BadRequest,
    BudgetSpent,
    Conflict,
    MirrorError,
    NotFound,
    StorageFailed,
    Unavailable,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamSlow,
)
from chatgpt_rest.mirror import AccountMirror, AskRecord, AskState, RequestLog, Standing
from chatgpt_rest.model import Completeness, Conversation, Node, Question
from chatgpt_rest.transcript import Transcript
from chatgpt_rest.upstream.protocol import Answer, Caller, FindCaller, Upstream

CONTINUATIONS: Final = 8
"""How often one answer is continued: a model that never ends would else spend the whole budget on one question."""

_GROWS_EVERY_SECONDS: Final = 1.0
_WRITES_AGAIN_SECONDS: Final = 2.0
_BUSY_PAUSES_SECONDS: Final = (1.0, 2.0, 4.0, 8.0)  # "Only one message at a time": the person's own browser is asking

Fetch = Callable[[AccountMirror, str, FindCaller], Awaitable[None]]
PushTitle = Callable[[AccountMirror, Caller, str, str], Coroutine[Any, Any, bool]]
Sleep = Callable[[float], Awaitable[None]]

_T = TypeVar("_T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRequest:
    """What a client asks. With no `conversation_id` it opens a conversation; with no `parent_id` it goes on from the
    end of the current branch.
    """

    prompt: str
    conversation_id: str | None = None
    parent_id: str | None = None
    title: str | None = None
    model: str | None = None
    autocontinue: bool = False

    def digest(self) -> bytes:
        """Equal for equal requests: tells a retry from another request under the same key."""
        return sha256(repr(self).encode("utf-8", "surrogatepass")).digest()


class Asking:
    """Asks upstream on behalf of accounts: any number of accounts at once, one ask at a time for each."""

    def __init__(
        self,
        upstream: Upstream,
        requests: RequestLog,
        *,
        default_model: str,
        fetch: Fetch,
        push_title: PushTitle,
        sleep: Sleep,
    ) -> None:
        self._upstream = upstream
        self._default_model = default_model
        self._requests = requests
        self._fetch = fetch
        self._push_title = push_title
        self._sleep = sleep
        self._turns: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._settled: set[asyncio.Task[Any]] = set()
        self._chores: set[asyncio.Task[Any]] = set()  # what is left to do for answers that were given
        self._by_key: dict[tuple[str, bytes], tuple[bytes, asyncio.Task[dict[str, Any]]]] = {}
        self._unwritten: set[tuple[str, bytes]] = set()
        self._is_closing = False

    async def ask(
        self, mirror: AccountMirror, request: AskRequest, find_caller: FindCaller, *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """The answer, as the message object that `GET messages` ends with from now on.

        The same `idempotency_key` within a day answers the same and asks nothing; Conflict where the request differs.
        Raises UpstreamError and BudgetSpent where the prompt was not taken (nothing of it is kept), AnswerIncomplete
        where the answer broke off (what came is kept), AskUncertain where nobody can tell.
        """
        if self._is_closing:
            raise _shutting_down()
        key = None if idempotency_key is None else sha256(idempotency_key.encode()).digest()
        under_way = None if key is None else self._by_key.get((mirror.account, key))
        if under_way is not None:
            digest, task = under_way
            _check_same(digest, request)
        else:
            task = _start(self._answer(mirror, request, find_caller, key), among=self._tasks)
            if key is not None:
                self._remember(task, mirror.account, key, request.digest())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # and not the one who waits for it: it never had its turn
                raise _shutting_down() from None
            raise

    async def drain(self, seconds: float) -> None:
        """Let the asks under way finish, for so long; then break them off, with what has come written down."""
        self._is_closing = True
        if self._tasks:
            log.info("waiting for answers under way asks=%d seconds=%g", len(self._tasks), seconds)
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in (self._tasks - self._settled) | self._chores:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._chores, return_exceptions=True)

    def _remember(self, task: asyncio.Task[dict[str, Any]], account: str, key: bytes, digest: bytes) -> None:
        self._by_key[account, key] = (digest, task)
        task.add_done_callback(lambda _: self._forget_key(account, key))

    def _forget_key(self, account: str, key: bytes) -> None:
        if (account, key) not in self._unwritten:
            self._by_key.pop((account, key), None)

    # ------------------------------------------------------------------------------------------------ the task

    async def _answer(
        self, mirror: AccountMirror, request: AskRequest, find_caller: FindCaller, key: bytes | None
    ) -> dict[str, Any]:
        earlier = None if key is None else await mirror.asks.find(key)
        if earlier is not None:
            _check_same(earlier.request_digest, request)
            return await _answered(mirror, earlier)
        async with self._turn(mirror.account):
            model = request.model or self._default_model
            await self._requests.check_model(mirror.account, model)
            caller = await find_caller()
            parent_id = await self._parent(mirror, request, find_caller)
            question = Question(
                message_id=str(uuid4()),
                prompt=request.prompt,
                conversation_id=request.conversation_id,
                parent_id=parent_id,
                model=model,
            )
            ask_id = uuid4().hex
            await mirror.asks.begin(
                ask_id,
                question,
                draft_id=str(uuid4()),
                title=request.title,
                idempotency_digest=key,
                request_digest=request.digest(),
            )
            transcript = await self._send(mirror, caller, ask_id, question, autocontinue=request.autocontinue)
            try:
                record = await self._end(mirror, ask_id, AskState.ANSWERED, transcript)
            except StorageFailed as error:
                # It was paid for: who asked gets it at once, and the mirror as soon as it takes it.
                log.warning("an answer could not be written yet account=%s reason=%s", mirror.account, error.text)
                self._write_later(mirror, ask_id, transcript, key)
                return transcript.answer()
            except Exception:
                log.exception("an answer could not be written account=%s", mirror.account)
                await self._close(mirror, ask_id, AskState.INCOMPLETE, transcript)
                return transcript.answer()
            if request.title is not None and not self._is_closing:  # the mirror keeps it for the next process
                await self._push(self._push_title(mirror, caller, record.conversation, request.title))
        return await _answered(mirror, record)

    @asynccontextmanager
    async def _turn(self, account: str) -> AsyncIterator[None]:
        """Wait until no other ask of this account is under way. Raises BudgetSpent, at once, where those who wait
        already will spend all that is left.
        """
        budget = await self._requests.budget(account)
        if budget.remaining == 0:
            raise await self._requests.refusal(account)
        if self._waiting[account] >= budget.remaining:
            first_back = budget.held_until[0] if budget.held_until else budget.now
            raise BudgetSpent(retry_after_seconds=(first_back - budget.now) / SECOND)
        lock = self._turns.setdefault(account, asyncio.Lock())
        self._waiting[account] += 1
        try:
            await lock.acquire()
        finally:
            self._waiting[account] -= 1
        try:
            yield
        finally:
            lock.release()

    async def _push(self, pushing: Coroutine[Any, Any, bool]) -> None:
        """Bring the title upstream, in a task of its own: the answer is there, and nothing that befalls the title, the
        end of the server included, may cost it. A title that did not get through is kept by the mirror.
        """
        push = _start(pushing, among=self._chores)
        await asyncio.wait((push,))
        if not push.cancelled() and (error := push.exception()) is not None:
            log.error("a title could not be pushed", exc_info=error)

    def _write_later(self, mirror: AccountMirror, ask_id: str, transcript: Transcript, key: bytes | None) -> None:
        """Try to write an answer down until it works. Its key goes on answering from memory until then."""
        if key is not None:
            self._unwritten.add((mirror.account, key))
        _start(self._keep_writing(mirror, ask_id, transcript, key), among=self._chores)

    async def _keep_writing(
        self, mirror: AccountMirror, ask_id: str, transcript: Transcript, key: bytes | None
    ) -> None:
        while True:
            await self._sleep(_WRITES_AGAIN_SECONDS)
            with suppress(StorageFailed):
                await self._end(mirror, ask_id, AskState.ANSWERED, transcript)
                break
        log.info("an answer is written after all account=%s", mirror.account)
        if key is not None:
            self._unwritten.discard((mirror.account, key))
            self._by_key.pop((mirror.account, key), None)

    async def _parent(self, mirror: AccountMirror, request: AskRequest, find_caller: FindCaller) -> str | None:
        """The message to go on from: one that upstream is known to have. Fetches the conversation where that is
        open.
        """
        if request.conversation_id is None:
            return None
        standing = await mirror.conversations.standing(request.conversation_id)
        if standing is Standing.DELETED:
            raise NotFound("conversation")
        if standing is Standing.LOCAL:
            raise Conflict(
                "it is not known whether this conversation ever reached ChatGPT; ask in a new one",
                code="conversation_uncertain",
            )
        if standing is Standing.LISTED and request.parent_id is not None:
            return request.parent_id  # whether it exists, upstream will say: one request instead of two
        if standing is not Standing.HERE:
            await self._fetch(mirror, request.conversation_id, find_caller)
        tree = await mirror.conversations.get(request.conversation_id)
        parent = _confirmed_parent(tree, request.parent_id, at_least=Completeness.COMPLETE)
        if parent is None and standing is Standing.HERE:  # upstream may have more than is here
            await self._fetch(mirror, request.conversation_id, find_caller)
            tree = await mirror.conversations.get(request.conversation_id)
        if parent is None:
            parent = _confirmed_parent(tree, request.parent_id, at_least=Completeness.PARTIAL)
        if parent is None and request.parent_id is not None:
            raise BadRequest("parent_id names no message of this conversation")
        return parent or _newest_confirmed(tree)

    async def _send(
        self, mirror: AccountMirror, caller: Caller, ask_id: str, question: Question, *, autocontinue: bool
    ) -> Transcript:
        """Ask, and continue where that is wished. What comes back is whole; how anything else ended is written down."""
        transcript = Transcript()
        try:
            await self._leg(mirror, caller, ask_id, question, transcript)
            for _ in range(CONTINUATIONS if autocontinue else 0):
                if transcript.finish != "max_tokens":
                    break
                if not await self._continue(mirror, caller, ask_id, question, transcript):
                    break
            if transcript.is_complete:
                self._settle()
                return transcript
        except asyncio.CancelledError as error:
            # Only `drain` cancels this task. It ends here, and who waits for it learns how.
            state = AskState.INCOMPLETE if transcript.nodes else AskState.UNCERTAIN
            record = await asyncio.shield(self._close(mirror, ask_id, state, transcript))
            raise (_incomplete if transcript.nodes else _uncertain)(record, None) from error
        except (MirrorError, TimeoutError) as error:
            state = _how_it_failed(error, transcript)
            record = await self._close(mirror, ask_id, state, transcript)
            log.info("an ask failed account=%s state=%s reason=%s", mirror.account, state.value, error)
            if state is AskState.INCOMPLETE:
                raise _incomplete(record, error) from error
            if state is AskState.UNCERTAIN:
                raise _uncertain(record, error) from error
            raise
        except Exception:
            # A fault of ours, and the error middleware's to tell. But the ask has an end all the same.
            state = AskState.INCOMPLETE if transcript.nodes else AskState.UNCERTAIN
            await self._close(mirror, ask_id, state, transcript)
            raise
        record = await self._close(mirror, ask_id, AskState.INCOMPLETE, transcript)
        raise _incomplete(record, None)

    def _settle(self) -> None:
        """The answer is whole: from here on nobody breaks this task off."""
        task = asyncio.current_task()
        if task is not None:
            self._settled.add(task)
            task.add_done_callback(self._settled.discard)

    async def _leg(
        self, mirror: AccountMirror, caller: Caller, ask_id: str, question: Question, transcript: Transcript
    ) -> None:
        """One request upstream and its stream. "Only one message at a time" is tried again: nothing was asked then."""
        for pause in (*_BUSY_PAUSES_SECONDS, None):
            try:
                async with self._upstream.ask(caller, question) as answer:
                    await self._watch(mirror, ask_id, answer, transcript)
            except UpstreamBusy:
                if pause is None or transcript.has_grown:
                    raise
                await self._sleep(pause)
            else:
                return

    async def _continue(
        self, mirror: AccountMirror, caller: Caller, ask_id: str, question: Question, transcript: Transcript
    ) -> bool:
        """Ask upstream to go on writing. False where it will not: the answer so far was paid for, and stands."""
        continuation = Question(
            message_id=str(uuid4()),
            prompt="",
            conversation_id=transcript.conversation_id,
            parent_id=transcript.nodes[-1].id,
            model=question.model,
            is_continuation=True,
        )
        transcript.begin_continuation()
        try:
            await self._leg(mirror, caller, ask_id, continuation, transcript)
        except (UpstreamError, BudgetSpent) as error:
            if transcript.has_grown:
                raise
            log.info("an answer stays cut account=%s reason=%s", mirror.account, error.code)
            transcript.end_continuation()
            return False
        return True

    async def _watch(self, mirror: AccountMirror, ask_id: str, answer: Answer, transcript: Transcript) -> None:
        """Follow a stream to its end, and write what has come into the mirror once a second, events or none."""
        has_begun = asyncio.Event()
        scribe = asyncio.create_task(self._write_on(mirror, ask_id, answer, transcript, has_begun))
        try:
            async for _ in answer:
                has_begun.set()
        finally:
            scribe.cancel()
            await asyncio.wait((scribe,))
            transcript.take(answer)
        if not scribe.cancelled() and (error := scribe.exception()) is not None:
            log.error("an answer could not be written as it came account=%s", mirror.account, exc_info=error)

    async def _write_on(
        self, mirror: AccountMirror, ask_id: str, answer: Answer, transcript: Transcript, has_begun: asyncio.Event
    ) -> None:
        await has_begun.wait()
        written: tuple[Node, ...] = ()
        while True:
            transcript.take(answer)
            if answer.conversation_id is not None and transcript.nodes != written:
                # A full disk must not cost an answer that upstream goes on writing; its end is written once more.
                with suppress(StorageFailed):
                    await mirror.asks.grow(
                        ask_id, transcript.nodes, conversation_id=answer.conversation_id, title=answer.title
                    )
                    written = transcript.nodes
            await asyncio.sleep(_GROWS_EVERY_SECONDS)

    async def _end(self, mirror: AccountMirror, ask_id: str, state: AskState, transcript: Transcript) -> AskRecord:
        return await mirror.asks.end(
            ask_id, state, transcript.nodes, conversation_id=transcript.conversation_id, title=transcript.title
        )

    async def _close(self, mirror: AccountMirror, ask_id: str, state: AskState, transcript: Transcript) -> AskRecord:
        """End an ask that did not succeed: without its last words, where these are what cannot be written."""
        try:
            return await self._end(mirror, ask_id, state, transcript)
        except StorageFailed:
            raise  # nothing can be written now, and the next start closes what is open
        except Exception:
            log.exception("the last words of an ask could not be written account=%s", mirror.account)
            return await self._end(mirror, ask_id, state, Transcript())


def _start(work: Coroutine[Any, Any, _T], *, among: set[asyncio.Task[Any]]) -> asyncio.Task[_T]:
    """A task that is kept `among` others until it ends."""
    task = asyncio.create_task(work)
    among.add(task)
    task.add_done_callback(among.discard)
    return task


def _confirmed_parent(tree: Conversation, parent_id: str | None, *, at_least: Completeness) -> str | None:
    """The parent to ask with, None where the mirror cannot vouch for it."""
    end = parent_id if parent_id is not None else branches.leaf(tree)
    node = None if end is None else tree.nodes.get(end)
    return end if node is not None and node.completeness >= at_least else None


def _newest_confirmed(tree: Conversation) -> str:
    """The end of the current branch without the prompts that never reached upstream."""
    for node in reversed(branches.branch(tree.nodes, branches.leaf(tree))):
        if node.completeness is not Completeness.UNCONFIRMED:
            return node.id
    raise Conflict("this conversation has no message to go on from; ask in a new one", code="conversation_empty")


def _how_it_failed(error: Exception, transcript: Transcript) -> AskState:
    if transcript.nodes:
        return AskState.INCOMPLETE
    # A connection that was never made carried nothing, and a refusal in so many words is one. All else may have
    # arrived.
    may_have_arrived = isinstance(error, UpstreamBroken | UpstreamSlow | TimeoutError)
    is_refusal = isinstance(error, UpstreamBroken) and error.code == "upstream_forbidden"
    return AskState.UNCERTAIN if may_have_arrived and not is_refusal else AskState.REFUSED


def _shutting_down() -> Unavailable:
    return Unavailable("the server is shutting down; ask again in a moment", retry_after_seconds=5)


def _incomplete(record: AskRecord, error: Exception | None) -> AnswerIncomplete:
    reason = "" if error is None else f": {error}"
    return AnswerIncomplete(
        f"ChatGPT's answer broke off{reason}; what came is kept in the conversation",
        details={"conversation_id": record.conversation, "message_id": record.answer_node},
    )


def _uncertain(record: AskRecord, error: Exception | None) -> AskUncertain:
    reason = "" if error is None else f" ({error})"
    return AskUncertain(
        f"it is not known whether this prompt reached ChatGPT{reason}; it is not sent again",
        details={"conversation_id": record.conversation},
    )


async def _answered(mirror: AccountMirror, record: AskRecord) -> dict[str, Any]:
    """The answer of an ask that ended, now or up to a day ago."""
    if record.state is AskState.INCOMPLETE:
        raise _incomplete(record, None)
    if record.state is not AskState.ANSWERED or record.answer_node is None:
        raise _uncertain(record, None)
    return chatgpt_json.answer(
        await mirror.conversations.get(record.conversation, even_if_deleted=True), record.answer_node
    )


def _check_same(digest: bytes, request: AskRequest) -> None:
    if digest != request.digest():
        raise Conflict("this Idempotency-Key was used for another request", code="idempotency_key_reused")
