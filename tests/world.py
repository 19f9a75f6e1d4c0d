# SPDX-License-Identifier: GPL-2.0-or-later
"""The world of a generated history: an account upstream, the mirror of it, and the process between them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from hypothesis import event

from chatgpt_rest import chatgpt_json
from chatgpt_rest.clock import SECOND
from chatgpt_rest.edits import Edits
from chatgpt_rest.errors import MirrorError
from chatgpt_rest.fetch import Fetches
from chatgpt_rest.mirror import AccountMirror, AskState, Mirror
from chatgpt_rest.model import Completeness, Node, Question
from chatgpt_rest.sync import Sync
from chatgpt_rest.upstream.protocol import Caller
from chatgpt_rest.upstream.simulated.accounts import Accounts
from chatgpt_rest.upstream.simulated.conversations import SimConversation
from chatgpt_rest.upstream.simulated.messages import assistant_message, text, user_message
from chatgpt_rest.upstream.simulated.tokens import Tokens
from tests.direct import Direct, HeldToken
from tests.histories import Answering, Crash, Do, Mend, Misfit, Order, Pass, Read, Restart, Skew, Step, Talk
from tests.house import ManualClock, make_config
from tests.mirrors import opening
from tests.rows import rows

T = TypeVar("T")

ALICE: Final = "user-alice"
ANSWER: Final = "It depends on many things, and on the weather most of all."


class Killed(BaseException):
    """The process is no more: nothing in it can catch that."""


@dataclass
class Asking:
    """An ask under way. `there` is its conversation upstream, a new one's once upstream has the prompt."""

    id: str
    prompt_id: str
    answer_id: str
    parent: str | None
    there: SimConversation | None
    arrived_at: float | None = None
    """By upstream's clock (seconds); the answer has the same time."""
    words: int = 0


class World:
    """Alice's account upstream, her mirror, and the process between them. What is public tells what may be expected."""

    def __init__(self, folder: Path, *, conversations: int, page: int) -> None:
        self.clock = ManualClock()
        self.account = Accounts(Tokens(b"secret", self._upstreams_time), self._upstreams_time).add("A", user_id=ALICE)
        self.upstream = Direct(self.account, self.clock, page=page)
        self.upstream.meanwhile = self._meanwhile
        self.asking: list[Asking] = []
        self.written_here: set[str] = set()
        """Messages of which this mirror had something before upstream had."""
        self.taken_back: set[str] = set()
        """Prompts that upstream refused."""
        self.buried: set[str] = set()
        self.brought_back: set[str] = set()
        self.titles: dict[str, str] = {}
        """What was set here and is not pushed yet, by conversation."""
        self.process = AsyncExitStack()
        self._folder = folder
        self._config = make_config(folder, "http://127.0.0.1:9/").sync
        self._skew_seconds = 0
        self._numbers = count(1)
        self._coming: dict[tuple[int, bool], Do | Skew | Crash] = {}
        for number in range(conversations):
            self._begin(at=self._upstreams_time() - 100 * (conversations - number))

    async def start(self) -> None:
        """Open the mirror, as a process does that begins."""
        self.process = AsyncExitStack()
        self.mirror: Mirror = await self.process.enter_async_context(opening(self._folder, self.clock))
        self.alice: AccountMirror = self.mirror.of(ALICE)
        self.token = HeldToken(self.mirror, ALICE)
        self.fetches = Fetches(self.upstream, self.clock)
        self.process.push_async_callback(self.fetches.aclose)
        self.edits = Edits(self.upstream, self.clock)
        self.sync = Sync(
            self.mirror,
            self.upstream,
            self.clock,
            fetches=self.fetches,
            tokens=self.token,
            config=self._config,
            jitter=lambda: 0.5,
        )

    async def do(self, step: Step) -> None:
        """Let it happen."""
        match step:
            case Pass():
                await self._pass(step)
            case Read(which):
                await self._read(which)
            case Do(what, which) if what in get_args(Talk):
                self._talk(what, which)
            case Do(what, which) if what in get_args(Order):
                self._order(what, which)
            case Do(what, which) if what in get_args(Misfit):
                self._upset(what, which)
            case Do(what, which) if what in get_args(Answering):
                await self._go_on(what, which)
            case Do(what, which):
                with suppress(MirrorError):  # upstream said no, or the budget did: then nothing has changed
                    await self._use(what, which)
            case Mend():
                self._mend()
            case Skew(seconds):
                self._skew_seconds = seconds
            case Restart(jump_seconds):
                await self._restart(jump_seconds)

    def set_right(self) -> None:
        """Nothing is in bad order any more, nor upstream's clock: it shows the latest time of all that it has shown."""
        self._mend()
        latest = max((each.update_time for each in self.account.everything), default=0.0)
        self.clock.move(seconds=max(0.0, latest - self._upstreams_time()))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query on Alice's conversations and nodes, read past the program."""
        hers = (
            f"{table} as (select * from main.{table} where account = '{ALICE}')" for table in ("conversation", "node")
        )
        return rows(self.mirror.path, f"with {', '.join(hers)} {query}")

    # -------------------------------------------------------------------------------------------------------- process

    async def _pass(self, step: Pass) -> None:
        self.clock.move(seconds=step.after_seconds)
        first = self.upstream.requests + 1
        self.upstream.faults = {first + number: fault for number, fault in step.faults.items()}
        self._coming = {(first + number, is_late): what for (number, is_late), what in step.meanwhile.items()}
        try:
            await self.sync.advance(ALICE)
        except Killed:
            event("killed in the middle of a request")
            await self._restart()
        finally:
            self.upstream.faults, self._coming = {}, {}

    async def _meanwhile(self, number: int, *, is_answered: bool) -> None:
        step = self._coming.pop((number, is_answered), None)
        if isinstance(step, Crash):
            raise Killed
        if step is not None:
            await self.do(step)

    async def _restart(self, jump_seconds: int = 0) -> None:
        await self.process.aclose()
        self.clock.jump(seconds=jump_seconds)
        self.asking.clear()
        await self.start()

    async def _caller(self) -> Caller:
        return await self.token.caller_of(ALICE)

    # ------------------------------------------------------------------------------------------------------- upstream

    def _upstreams_time(self) -> float:
        return self.clock.now() / SECOND + self._skew_seconds

    def _new_id(self, kind: str = "n") -> str:
        return f"{kind}{next(self._numbers)}"

    def _begin(self, *, at: float | None = None) -> None:
        name = self._new_id("c")
        turns = [(f"What of {name}?", ANSWER)]
        self.account.add_conversation(f"Title {name}", turns, conversation_id=name, at=at, new_id=self._new_id)

    def _shown(self) -> list[SimConversation]:
        return [each for each in self.account.everything if each.is_visible]

    def _talk(self, what: str, which: int) -> None:
        shown = self._shown()
        if what == "begin" or not shown:
            self._begin()
            return
        conversation = shown[which % len(shown)]
        match what:
            case "turn":
                conversation.add_turn("And then?", ANSWER)
            case "regenerate":
                conversation.regenerate()
            case "edit":
                conversation.edit_prompt("What else?", ANSWER)
            case "switch":
                leaves = [key for key, node in conversation.mapping.items() if not node["children"]]
                conversation.current_node = leaves[which % len(leaves)]
                conversation.touch()
            case "prune":
                _prune(conversation)

    def _order(self, what: str, which: int) -> None:
        shown = self._shown()
        for conversation in shown if what == "stir" else _one_of(shown, which):
            match what:
                case "rename" | "stir":
                    conversation.rename(f"Title {next(self._numbers)}")
                case "archive" | "unarchive":
                    conversation.archive(archived=what == "archive")
                case "put":
                    projects = list(self.account.projects) or [self.account.add_project(f"Project {which}")]
                    conversation.gizmo_id, conversation.gizmo_type = projects[0], "snorlax"
                    conversation.touch()
                case "dissolve" if conversation.gizmo_id is not None:
                    del self.account.projects[conversation.gizmo_id]
                    for each in shown:
                        each.is_visible = each.gizmo_id != conversation.gizmo_id
                case "delete":
                    conversation.delete()

    def _upset(self, how: str, which: int) -> None:
        misfits = {"fail": self.upstream.failing, "hide": self.upstream.hidden, "shut": self.upstream.inaccessible}
        misfits[how].update(each.id for each in _one_of(self.account.everything, which))

    def _mend(self) -> None:
        self.token.is_held = True
        for misfits in (self.upstream.failing, self.upstream.hidden, self.upstream.inaccessible):
            misfits.clear()

    # ----------------------------------------------------------------------------------------------------------- here

    def _here(self, which: int) -> str | None:
        """A conversation of upstream's that the mirror knows and has not deleted."""
        here = self.rows("select id from conversation where deleted_at is null and is_local = 0 order by id")
        return str(here[which % len(here)][0]) if here else None

    async def _read(self, which: int) -> None:
        name = self._here(which)
        if name is not None:
            self.sync.was_read(ALICE, name)
            with suppress(MirrorError):
                await self.fetches.fetch(self.alice, name, self._caller)

    async def _use(self, what: str, which: int) -> None:
        match what:
            case "open":
                await self._ask(None)
            case "push":
                await self.edits.push_titles(self.alice, await self._caller())
                pending = self.rows("select id from conversation where is_title_pending = 1")
                self.titles = {name: self.titles[name] for (name,) in pending}
            case "undelete":
                for each in _one_of(await self.alice.deletions.buried(), which):
                    await self.alice.deletions.undelete(each.id)
                    self.buried.discard(each.id)
                    self.brought_back.add(each.id)
            case "purge":
                await self.alice.deletions.purge(before=self.clock.now() + 1)
            case "delete all":
                await self.edits.delete_all(self.alice, find_caller=self._caller)
                self.buried.update(name for (name,) in self.rows("select id from conversation where is_local = 0"))
            case _:
                name = self._here(which)
                if name is not None:
                    await self._use_one(what, name)

    async def _use_one(self, what: str, name: str) -> None:
        title = f"Mine {next(self._numbers)}"
        match what:
            case "name":
                await self.alice.conversations.edit(name, title=title, is_pending=True)
                self.titles[name] = title
            case "retitle":
                await self.edits.edit(self.alice, name, title=title, is_archived=None, find_caller=self._caller)
                self.titles.pop(name, None)
            case "shelve":
                await self.edits.edit(self.alice, name, title=None, is_archived=True, find_caller=self._caller)
            case "remove":
                await self.edits.delete(self.alice, name, find_caller=self._caller)
                self.buried.add(name)
            case "bury":
                await self.alice.deletions.bury(name)
                self.buried.add(name)
            case "ask":
                await self._ask(self.account.find(name))

    # ----------------------------------------------------------------------------------------------------------- asks

    async def _ask(self, there: SimConversation | None) -> None:
        name, parent = (None, None) if there is None else (there.id, there.current_node)
        asking = Asking(self._new_id("ask"), self._new_id("p"), self._new_id("a"), parent, there)
        await self.alice.asks.begin(
            asking.id,
            Question(asking.prompt_id, "Why?", name, parent, "gpt-5"),
            draft_id=self._new_id("draft"),
            title=None,
            idempotency_digest=None,
            request_digest=b"",
        )
        self.written_here |= {asking.prompt_id, asking.answer_id}
        self.asking.append(asking)

    async def _go_on(self, how: str, which: int) -> None:
        if not self.asking:
            return
        asking = self.asking[which % len(self.asking)]
        asks = self.alice.asks
        match how:
            case "grow":
                there = self._arrive(asking)
                self._follow(asking, there)
                asking.words += 2
                await asks.grow(asking.id, [_answer(asking)], conversation_id=there.id, title=None)
                return
            case "end" | "break":
                there = self._arrive(asking)
                self._follow(asking, there)
                asking.words += 1
                there.touch()  # the last word is a change, too
                state = AskState.ANSWERED if how == "end" else AskState.INCOMPLETE
                nodes = [_answer(asking, is_whole=how == "end")]
                await asks.end(asking.id, state, nodes, conversation_id=there.id, title=None)
            case "refuse" if asking.arrived_at is None:
                await asks.end(asking.id, AskState.REFUSED, [], conversation_id=None, title=None)
                self.taken_back.add(asking.prompt_id)
            case "doubt" | "lose" if asking.arrived_at is None:
                if how == "doubt":
                    self._arrive(asking)
                await asks.end(asking.id, AskState.UNCERTAIN, [], conversation_id=None, title=None)
            case _:
                return
        self.asking.remove(asking)

    def _follow(self, asking: Asking, there: SimConversation) -> None:
        """What was deleted before upstream had named it stays so under the name that it gets now."""
        deleted = self.rows(
            "select conversation.id from ask join conversation on conversation.id = ask.conversation "
            f"where ask.id = '{asking.id}' and is_local = 1 and deleted_at is not null"
        )
        if deleted:
            self.buried.add(there.id)

    def _arrive(self, asking: Asking) -> SimConversation:
        """Upstream has the prompt now, and its own answer is whole from the start; only the stream takes its time."""
        if asking.there is None:
            name = self._new_id("c")
            asking.there = self.account.add_conversation("New chat", conversation_id=name, new_id=self._new_id)
        if asking.arrived_at is None:
            parent = asking.parent if asking.parent in asking.there.mapping else None
            asking.arrived_at = self._upstreams_time()
            asking.there.append(user_message(asking.prompt_id, text("Why?"), at=asking.arrived_at), parent=parent)
            asking.there.append(_said(asking, ANSWER))
            asking.there.touch()
        return asking.there


def _one_of(things: Sequence[T], number: int) -> Sequence[T]:
    """The thing of this number, counted round; nothing where there is none."""
    return [things[number % len(things)]] if things else []


def _prune(conversation: SimConversation) -> None:
    """Take a branch away that the reader is not on, if there is one."""
    mapping = conversation.mapping
    path = {message["id"] for message in conversation.branch()}
    doomed = [key for key, node in mapping.items() if key not in path and node["parent"] in path][:1]
    if not doomed:
        return
    mapping[mapping[doomed[0]]["parent"]]["children"].remove(doomed[0])
    for key in doomed:  # which grows by the children of each
        doomed.extend(mapping.pop(key)["children"])
    conversation.touch()


def _said(asking: Asking, words: str) -> dict[str, Any]:
    assert asking.arrived_at is not None
    return assistant_message(asking.answer_id, words, at=asking.arrived_at, model="gpt-5", parent_id=asking.prompt_id)


def _answer(asking: Asking, *, is_whole: bool = False) -> Node:
    """As much of the answer as has come."""
    words = ANSWER if is_whole else " ".join(ANSWER.split(" ")[: asking.words])
    completeness = Completeness.COMPLETE if is_whole else Completeness.PARTIAL
    return chatgpt_json.node(_said(asking, words), parent=asking.prompt_id, completeness=completeness)
