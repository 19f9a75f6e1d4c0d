# SPDX-License-Identifier: GPL-2.0-or-later
"""One ask as a task of its own: written down before it leaves, written on as it comes, watched by any number of
readers.

A client that hangs up changes nothing. A prompt is sent at most once: where the line broke so that nobody can tell
whether it arrived, the ask ends as uncertain, and the conversation is fetched before anyone builds on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from textwrap import shorten
from typing import Any, Final, TypeVar
from uuid import uuid4
from weakref import WeakValueDictionary

from chatgpt_rest.clock import MINUTE, SECOND
from chatgpt_rest.errors import BudgetSpent, Conflict, NotFound, StorageFailed, UpstreamNotFound
from chatgpt_rest.exchange import Exchange, Sleep, answer_of
from chatgpt_rest.histories import Place
from chatgpt_rest.live import LiveAsk, shutting_down
from chatgpt_rest.mirror import AccountMirror, AskState, RequestLog
from chatgpt_rest.model import Question, SentMessage, Turn
from chatgpt_rest.parents import find_local_parent, find_parent
from chatgpt_rest.turns import path_turns
from chatgpt_rest.upstream.protocol import Caller, FindCaller, Upstream

_LONGEST_TITLE: Final = 60  # characters
_WRITES_AGAIN_SECONDS: Final = 2.0
_REPEATED_WITHIN: Final = 15 * MINUTE  # clients give an answer up after ten, wait a little and send it again

Fetch = Callable[[AccountMirror, str, FindCaller], Awaitable[None]]
CheckModel = Callable[[AccountMirror, str, FindCaller], Awaitable[None]]
FindPlace = Callable[[AccountMirror, Sequence[Turn]], Awaitable[Place]]
PushTitle = Callable[[AccountMirror, Caller, str, str], Coroutine[Any, Any, bool]]

_T = TypeVar("_T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRequest:
    """What a client asks. With no `conversation_id` it opens a conversation; with no `parent_id` it goes on from the
    end of the current branch. With a `history`, all messages before the prompt as the client has them, both are found
    when its turn comes; what nobody here knows of it goes along.
    """

    prompt: str
    conversation_id: str | None = None
    parent_id: str | None = None
    title: str | None = None
    model: str | None = None
    autocontinue: bool = False
    history: tuple[Turn, ...] = field(default=(), repr=False)  # out of the digest of requests that have none

    def digest(self) -> bytes:
        """Equal for equal requests: tells a retry from another request under the same key."""
        told = repr(self) + (repr(self.history) if self.history else "")
        return sha256(told.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class _Errand:
    """Whose an ask is, and who waits for it."""

    mirror: AccountMirror
    find_caller: FindCaller
    key: bytes | None
    live: LiveAsk


class Asking:
    """Asks upstream on behalf of accounts: any number of them at once, and one ask at a time for each where upstream
    keeps their conversations, since it writes one answer at a time then.
    """

    def __init__(
        self,
        upstream: Upstream,
        requests: RequestLog,
        *,
        default_model: str,
        fetch: Fetch,
        check_model: CheckModel,
        find_place: FindPlace,
        push_title: PushTitle,
        sleep: Sleep,
    ) -> None:
        self._upstream = upstream
        self._default_model = default_model
        self._requests = requests
        self._fetch = fetch
        self._check_model = check_model
        self._find_place = find_place
        self._push_title = push_title
        self._sleep = sleep
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._waiting: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._settled: set[asyncio.Task[Any]] = set()
        self._chores: set[asyncio.Task[Any]] = set()  # what is left to do for answers that were given
        self._live: dict[str, list[LiveAsk]] = {}  # by account, the oldest first
        self._by_key: dict[tuple[str, bytes], LiveAsk] = {}
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
        return await self.start(mirror, request, find_caller, idempotency_key=idempotency_key).result()

    def start(
        self,
        mirror: AccountMirror,
        request: AskRequest,
        find_caller: FindCaller,
        *,
        idempotency_key: str | None = None,
        is_repetition: bool = False,
    ) -> LiveAsk:
        """The same for one who watches the answer grow. What `ask` raises, its result raises; Conflict and Unavailable
        also come from here.

        `is_repetition`: a client sends it again and has no key for it. The newest ask of the last quarter of an hour
        with the same digest is the one that is meant; refused ones, which nobody was asked, apart.
        """
        if self._is_closing:
            raise shutting_down()
        key = None if idempotency_key is None else sha256(idempotency_key.encode()).digest()
        under_way = None if key is None else self._by_key.get((mirror.account, key))
        if under_way is not None:
            _check_same(under_way.request_digest, request)
            return under_way
        if is_repetition and (repeated := self._repeated(mirror.account, request.digest())) is not None:
            return repeated
        live = LiveAsk(conversation_id=request.conversation_id, request_digest=request.digest())
        self._keep(live, mirror.account, key)
        answering = self._answer(_Errand(mirror, find_caller, key, live), request, is_repetition=is_repetition)
        live.follow(_start(answering, among=self._tasks))
        return live

    def under_way(self, account: str, conversation_id: str) -> LiveAsk | None:
        """The ask whose answer is being written in this conversation, whoever asked; of several the first."""
        return next((live for live in self._live.get(account, ()) if conversation_id in live.names), None)

    def count(self, account: str) -> int:
        """How many of the account's asks have not ended, those that wait their turn included."""
        return len(self._live.get(account, ()))

    def _repeated(self, account: str, digest: bytes) -> LiveAsk | None:
        return next((live for live in reversed(self._live.get(account, [])) if live.request_digest == digest), None)

    async def drain(self, seconds: float) -> None:
        """Let the asks under way finish, for so long; then break them off, with what has come written down."""
        self._is_closing = True
        if self._tasks:
            log.info("waiting for answers under way asks=%d seconds=%g", len(self._tasks), seconds)
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in (self._tasks - self._settled) | self._chores:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._chores, return_exceptions=True)

    def _keep(self, live: LiveAsk, account: str, key: bytes | None) -> None:
        self._live.setdefault(account, []).append(live)
        if key is not None:
            self._by_key[account, key] = live
        live.on_end(lambda: self._let_go(live, account, key))

    def _let_go(self, live: LiveAsk, account: str, key: bytes | None) -> None:
        mine = self._live[account]
        mine.remove(live)
        if not mine:
            del self._live[account]
        if key is not None:
            self._forget_key(account, key)

    def _forget_key(self, account: str, key: bytes) -> None:
        if (account, key) not in self._unwritten:
            self._by_key.pop((account, key), None)

    # ------------------------------------------------------------------------------------------------ the task

    async def _answer(self, errand: _Errand, request: AskRequest, *, is_repetition: bool) -> dict[str, Any]:
        asks = errand.mirror.asks
        earlier = None
        if errand.key is not None:
            earlier = await asks.find(errand.key)
        elif is_repetition:
            earlier = await asks.find_repeated(errand.live.request_digest, within=_REPEATED_WITHIN)
        if earlier is not None:
            _check_same(earlier.request_digest, request)
            message = await answer_of(errand.mirror, earlier)
        else:
            async with self._turn(errand.mirror, request):
                message = await self._in_turn(errand, request)
        errand.live.settle(message)
        return message

    async def _in_turn(self, errand: _Errand, request: AskRequest) -> dict[str, Any]:
        """The answer of an ask whose turn it is."""
        place = await self._place(errand.mirror, request)
        try:
            return await self._asked(errand, request, place)
        except UpstreamNotFound as error:
            if not request.history or place.conversation_id is None or not error.is_gone:
                raise
            # It was deleted at ChatGPT, which only the conversation's own 404 proves. The client, which named none, has
            # said all that a new one needs.
            with suppress(NotFound):
                await self._fetch(errand.mirror, place.conversation_id, errand.find_caller)
            other = await self._place(errand.mirror, request)
            if other.conversation_id == place.conversation_id:
                raise
            return await self._asked(errand, request, other)

    async def _place(self, mirror: AccountMirror, request: AskRequest) -> Place:
        if not request.history:
            return Place(request.conversation_id, request.parent_id, 0)
        return await self._find_place(mirror, request.history)

    async def _asked(self, errand: _Errand, request: AskRequest, place: Place) -> dict[str, Any]:
        """The answer of an ask whose place is known: written down, sent, and written down again."""
        mirror, live = errand.mirror, errand.live
        model = request.model or self._default_model
        await self._requests.check_model(mirror.account, model)
        caller = await errand.find_caller()
        if request.model is not None:
            await self._check_model(mirror, model, errand.find_caller)
        draft_id = str(uuid4())
        question = await self._question(errand, request, place, model=model, draft_id=draft_id)
        live.conversation_id = place.conversation_id
        live.names.add(question.conversation_id or draft_id)
        ask_id = uuid4().hex
        await mirror.asks.begin(
            ask_id,
            question,
            draft_id=draft_id,
            title=request.title if self._upstream.keeps_conversations else _title(request),
            idempotency_digest=errand.key,
            request_digest=live.request_digest,
        )
        exchange = Exchange(
            self._upstream, mirror, caller, ask_id=ask_id, question=question, live=live, sleep=self._sleep
        )
        await exchange.run(autocontinue=request.autocontinue)
        self._settle()
        try:
            record = await exchange.end(AskState.ANSWERED)
        except StorageFailed as error:
            # It was paid for: who asked gets it at once, and the mirror as soon as it takes it.
            log.warning("an answer could not be written yet account=%s reason=%s", mirror.account, error.text)
            self._write_later(mirror.account, exchange, errand.key)
            return exchange.transcript.answer()
        except Exception:
            log.exception("an answer could not be written account=%s", mirror.account)
            await exchange.close(AskState.INCOMPLETE)
            return exchange.transcript.answer()
        is_pushed = request.title is not None and self._upstream.keeps_conversations
        if is_pushed and not self._is_closing:  # the mirror keeps it for the next process
            await self._push(self._push_title(mirror, caller, record.conversation, request.title or ""))
        return await answer_of(mirror, record)

    async def _question(
        self, errand: _Errand, request: AskRequest, place: Place, *, model: str, draft_id: str
    ) -> Question:
        mirror, conversation_id, parent_id = errand.mirror, place.conversation_id, None
        history: tuple[Turn, ...] = ()
        if self._upstream.keeps_conversations:
            if conversation_id is not None:
                parent_id = await find_parent(
                    mirror,
                    conversation_id,
                    place.parent_id,
                    fetch=lambda wanted: self._fetch(mirror, wanted, errand.find_caller),
                )
        elif conversation_id is None:
            conversation_id = draft_id  # upstream will never give it another name
        else:
            parent_id = await find_local_parent(mirror, conversation_id, place.parent_id)
            tree = await mirror.conversations.get(conversation_id)
            history = tuple(turn for turn, _ in path_turns(tree, parent_id)) if parent_id is not None else ()
        unknown = [turn for turn in request.history[place.known :] if turn.text]
        return Question(
            message_id=str(uuid4()),
            prompt=request.prompt,
            conversation_id=conversation_id,
            parent_id=parent_id,
            model=model,
            before=tuple(SentMessage(str(uuid4()), turn.role, turn.text) for turn in unknown),
            history=history,
        )

    @asynccontextmanager
    async def _turn(self, mirror: AccountMirror, request: AskRequest) -> AsyncIterator[None]:
        """Wait until no other ask is under way that this one must not run beside: of the account, or in this very
        conversation where upstream keeps none. Raises BudgetSpent, at once, where those who wait already will spend
        all that is left.
        """
        account = mirror.account
        budget = await self._requests.budget(account)
        if budget.remaining == 0:
            raise await self._requests.refusal(account)
        if self._waiting[account] >= budget.remaining:
            first_back = budget.held_until[0] if budget.held_until else budget.now
            raise BudgetSpent(retry_after_seconds=(first_back - budget.now) / SECOND)
        beside = account
        if not self._upstream.keeps_conversations:
            beside = f"{account}/{(await self._place(mirror, request)).conversation_id or uuid4()}"
        lock = self._turns.setdefault(beside, asyncio.Lock())
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

    def _settle(self) -> None:
        """The answer is whole: from here on nobody breaks this task off."""
        task = asyncio.current_task()
        if task is not None:
            self._settled.add(task)
            task.add_done_callback(self._settled.discard)

    def _write_later(self, account: str, exchange: Exchange, key: bytes | None) -> None:
        """Try to write an answer down until it works. Its key goes on answering from memory until then."""
        if key is not None:
            self._unwritten.add((account, key))
        _start(self._keep_writing(account, exchange, key), among=self._chores)

    async def _keep_writing(self, account: str, exchange: Exchange, key: bytes | None) -> None:
        while True:
            await self._sleep(_WRITES_AGAIN_SECONDS)
            with suppress(StorageFailed):
                await exchange.end(AskState.ANSWERED)
                break
        log.info("an answer is written after all account=%s", account)
        if key is not None:
            self._unwritten.discard((account, key))
            self._by_key.pop((account, key), None)


def _start(work: Coroutine[Any, Any, _T], *, among: set[asyncio.Task[Any]]) -> asyncio.Task[_T]:
    """A task that is kept `among` others until it ends."""
    task = asyncio.create_task(work)
    among.add(task)
    task.add_done_callback(among.discard)
    return task


def _title(request: AskRequest) -> str:
    """What a conversation is called that no upstream gives a title."""
    words = request.title or shorten(request.prompt, _LONGEST_TITLE, placeholder="…")
    return words or request.prompt[:_LONGEST_TITLE]


def _check_same(digest: bytes, request: AskRequest) -> None:
    if digest != request.digest():
        raise Conflict("this Idempotency-Key was used for another request", code="idempotency_key_reused")
