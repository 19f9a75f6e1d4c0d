# SPDX-License-Identifier: GPL-2.0-or-later
"""kill -9 around asks, again and again: before a prompt leaves, while it is answered, when it is, and while a server
that was told to stop lets answers finish. What was sent is counted at ChatGPT's end, and what is in the mirror after
one more sync is compared with what ChatGPT has.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp
import pytest
from hypothesis import settings

from chatgpt_rest.model import Completeness
from chatgpt_rest.upstream.simulated import Account, SimulatedChatGPT
from chatgpt_rest.upstream.simulated.answers import answer_to
from tests.house import Client
from tests.process import Running, environment, started
from tests.rows import rows

SEED: Final = 20_261_122
PATIENCE_SECONDS: Final = 60.0
LONGEST_DELAY_SECONDS: Final = 0.04  # of a kill after what it waited for: into whatever comes then
MOST_EVENTS: Final = 25  # of an answer here
NEVER_SENT: Final = {"unavailable"}  # the server was ending, and says so
NODES: Final = """
    select account, conversation, id, parent, message, completeness, is_absent_upstream from node
    where (account, conversation) in (select account, id from conversation where deleted_at is null)
"""
ASKS: Final = "select account, prompt_node, answer_node, state from ask"


@dataclass
class Prompt:
    """What a client asks, in words that nobody else uses, and what it was told: a message's object, or a code."""

    text: str
    account: Account
    conversation_id: str | None
    key: str | None
    is_streamed: bool
    told: list[dict[str, Any] | str] = field(default_factory=list)

    @property
    def answers(self) -> list[dict[str, Any]]:
        return [each for each in self.told if isinstance(each, dict)]


@dataclass
class Tree:
    """What somebody has of the words of an account: by conversation, by id, the parent, who speaks, and what."""

    conversations: dict[str, dict[str, tuple[str | None, str, str]]] = field(default_factory=dict)

    def add(self, conversation: str, node: str, parent: str | None, message: Any) -> None:
        role, text = "", ""
        if message is not None:
            role = message["author"]["role"]
            text = "".join(message["content"].get("parts", []))
        self.conversations.setdefault(conversation, {})[node] = (parent, role, text)

    def times_said(self) -> Counter[str]:
        """How often each prompt is there."""
        return Counter(
            text for nodes in self.conversations.values() for _, role, text in nodes.values() if role == "user"
        )

    def answers(self, prompt: str) -> list[str]:
        """What follows this prompt, wherever it is."""
        return [
            text
            for nodes in self.conversations.values()
            for parent, _, text in nodes.values()
            if parent is not None and parent in nodes and nodes[parent][1:] == ("user", prompt)
        ]


@pytest.fixture
def chatgpt() -> SimulatedChatGPT:
    """A ChatGPT in the time of this machine, as the processes are."""
    return SimulatedChatGPT(conversations=False)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Connections of a client."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


class Rig:
    """Clients of three accounts who ask a server that is killed, and what each was told."""

    def __init__(self, folder: Path, chatgpt: SimulatedChatGPT, base_url: str, session: aiohttp.ClientSession) -> None:
        self.random = Random(SEED)
        self.prompts: list[Prompt] = []
        self.mirror = folder / "mirror.sqlite"
        self.chatgpt = chatgpt
        self.accounts = [chatgpt.alice, chatgpt.bob, chatgpt.add_account("Carol")]
        self._folder = folder
        self._base_url = base_url
        self._session = session
        self._tokens = {account.user_id: account.token() for account in self.accounts}

    def started(self, *, is_syncing: bool) -> Any:
        """The server over this rig's mirror. Its budget is no concern here."""
        environ = environment(
            self._folder,
            self._base_url,
            {
                "CHATGPT_REST_SYNC__ENABLED": "true" if is_syncing else "false",
                "CHATGPT_REST_SYNC__INTERVAL_SECONDS": "86400",
                "CHATGPT_REST_RATE_LIMIT__REQUESTS_PER_HOUR": "100000",
                "CHATGPT_REST_UPSTREAM__ACCESS_TOKEN": self._tokens[self.accounts[0].user_id],
            },
        )
        # A process that is killed tells nothing of its coverage.
        environ = {name: value for name, value in environ.items() if not name.startswith("COVERAGE_")}
        return started(environ=environ, is_whole=True)

    def client(self, address: str, account: Account) -> Client:
        return Client(self._session, address, self._tokens[account.user_id])

    def some_prompts(self) -> list[Prompt]:
        """What is asked at once: new prompts of each account, and again some whose keys tell that they were asked."""
        chosen = []
        for account in self.random.sample(self.accounts, self.random.choice([1, 2, 3])):
            known = [
                answer["conversation_id"]
                for prompt in self.prompts[-20:]
                if prompt.account is account
                for answer in prompt.answers
            ]
            for _ in range(self.random.choice([1, 1, 2])):
                number = len(self.prompts)
                chosen.append(
                    Prompt(
                        text=f"Question {number}: what is {self.random.getrandbits(64)}?",
                        account=account,
                        conversation_id=self.random.choice(known) if known and self.random.random() < 0.5 else None,
                        key=f"key-{number}" if self.random.random() < 0.5 else None,
                        is_streamed=self.random.random() < 0.5,
                    )
                )
                self.prompts.append(chosen[-1])
        again = [prompt for prompt in self.prompts[-12:] if prompt.key is not None and prompt not in chosen]
        return [*self.random.sample(again, min(2, len(again))), *chosen]

    async def ask(self, address: str, prompt: Prompt) -> None:
        """Ask, and note what came back; nothing is noted of what broke off."""
        where = "new" if prompt.conversation_id is None else f"{prompt.conversation_id}/ask"
        headers = {} if prompt.key is None else {"Idempotency-Key": prompt.key}
        if prompt.is_streamed:
            headers["Accept"] = "text/event-stream"
        with suppress(aiohttp.ClientError):
            answered = await self.client(address, prompt.account).post(
                f"/conversations/{where}", data={"prompt": prompt.text}, headers=headers
            )
            if answered.status != 201:
                prompt.told.append(answered.json["code"])
            elif prompt.is_streamed:
                event, data = answered.body.decode().rstrip().rpartition("\n\n")[2].split("\n")
                told = json.loads(data.removeprefix("data: "))
                prompt.told.append(told if event == "event: message" else told["code"])
            else:
                prompt.told.append(answered.json["response"])

    async def settled(self) -> None:
        """Wait until ChatGPT has seen all that a process sent which is dead by now, and is done with it."""
        self.chatgpt.clear_faults()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                async with self._session.get(self._base_url.replace("/backend-api/", "/simulated/settings")) as answer:
                    assert answer.status == 200
                if all(account.generation is None for account in self.accounts):
                    return

    async def synced(self) -> None:
        """Sync every account to the end, in a server that then stops by itself."""
        async with self.started(is_syncing=True) as server:
            address = await server.address()
            for account in self.accounts:
                assert (await self.client(address, account).post("/sync")).status == 202
                await server.until(f"synced account={account.user_id} ")
            assert await server.end(signal.SIGTERM) == 0
            assert "Traceback" not in server.text

    def prompts_here(self) -> set[str]:
        """Every prompt that the mirror holds, whatever it knows of it."""
        trees = [tree for account in self.accounts for tree in self.here(account)]
        return {prompt for tree in trees for prompt in tree.times_said()}

    def sent(self) -> Counter[str]:
        """How often ChatGPT received each prompt, refused or not."""
        return Counter(
            part
            for request in self.chatgpt.requests
            if (request.method, request.endpoint) == ("POST", "conversation")
            and request.body  # one that was killed while it sent this has sent nothing
            for message in json.loads(request.body)["messages"]
            for part in message["content"]["parts"]
        )

    def upstream(self, account: Account) -> Tree:
        """What ChatGPT has."""
        tree = Tree()
        for conversation in account.everything:
            for node in conversation.mapping.values():
                tree.add(conversation.id, node["id"], node["parent"], node["message"])
        return tree

    def here(self, account: Account) -> tuple[Tree, Tree, Tree]:
        """What the mirror has: whole, in part, and unconfirmed."""
        trees = Tree(), Tree(), Tree()
        order = [Completeness.COMPLETE, Completeness.PARTIAL, Completeness.UNCONFIRMED]
        for owner, conversation, node, parent, message, completeness, is_absent in rows(self.mirror, NODES):
            if owner == account.user_id:
                assert not is_absent or completeness == Completeness.UNCONFIRMED
                told = None if message is None else json.loads(message)
                trees[order.index(Completeness(completeness))].add(conversation, node, parent, told)
        return trees


async def strike(rig: Rig, server: Running, asking: set[asyncio.Task[None]]) -> None:
    """Let the asks come as far as chance wants, then kill the server: at a moment, or as a step of theirs is taken."""
    random = rig.random
    how = random.choice(["at a moment", "as it leaves", "in mid-answer", "in mid-answer", "in a drain", "at its end"])
    if how == "at a moment":
        await asyncio.wait(asking, timeout=random.uniform(0, 0.25))
    elif how == "at its end":
        await asyncio.wait(asking, return_when=random.choice([asyncio.FIRST_COMPLETED, asyncio.ALL_COMPLETED]))
    else:
        after = random.randrange(3)
        if how == "as it leaves":
            fault = rig.chatgpt.fault("conversation", after=after, times=1, hold=True)
        else:
            at = random.randrange(MOST_EVENTS)
            fault = rig.chatgpt.fault("conversation", after=after, times=1, hold_after_events=at)
        held = asyncio.create_task(fault.until_held())
        everything = asyncio.gather(*asking)
        await asyncio.wait((held, everything), return_when=asyncio.FIRST_COMPLETED)
        held.cancel()
        if how == "in a drain":
            server.send(signal.SIGTERM)
        if random.random() < 0.6:
            fault.release()
        await asyncio.wait((everything,), timeout=random.uniform(0, LONGEST_DELAY_SECONDS))
    await server.end(signal.SIGKILL)
    await asyncio.wait(asking)
    for each in asking:
        each.result()


async def test_asks_that_are_killed_are_neither_lost_nor_sent_twice(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, session: aiohttp.ClientSession
) -> None:
    """Whatever ChatGPT received is here in the end, once and whole, as it has it; nothing was sent to it twice; and
    what never reached it is here as unconfirmed, unless the client was told that it was not asked.
    """
    kills = 500 if settings.get_current_profile_name() == "soak" else 50
    rig = Rig(tmp_path, chatgpt, base_url, session)
    for _ in range(kills):
        chatgpt.settings.event_pause_seconds = rig.random.choice([0, 0.001, 0.005])
        async with rig.started(is_syncing=rig.random.random() < 0.3) as server:
            address = await server.address()
            asking = {asyncio.create_task(rig.ask(address, prompt)) for prompt in rig.some_prompts()}
            await strike(rig, server, asking)
            assert "Traceback" not in server.text, server.text
        await rig.settled()
        assert rig.sent().keys() <= rig.prompts_here()  # before any sync could bring it
    chatgpt.settings.event_pause_seconds = 0
    await rig.synced()

    sent = rig.sent()
    assert max(sent.values()) == 1
    assert len(rows(rig.mirror, "select 1 from upstream_request")) >= chatgpt.received()
    asks = rows(rig.mirror, ASKS)
    for account in rig.accounts:
        upstream = rig.upstream(account)
        whole, partial, unconfirmed = rig.here(account)
        assert whole == upstream
        assert partial == Tree()
        mine = [prompt for prompt in rig.prompts if prompt.account is account]
        said, unsaid = whole.times_said(), unconfirmed.times_said()
        assert set((said + unsaid).values()) == {1}
        for prompt in mine:
            if sent[prompt.text]:
                assert whole.answers(prompt.text) == [answer_to(prompt.text)]
            else:
                assert not prompt.answers
                assert unsaid[prompt.text] or set(prompt.told) <= NEVER_SENT
            assert {answer["message"] for answer in prompt.answers} <= {answer_to(prompt.text)}
            assert len({answer["id"] for answer in prompt.answers}) <= 1
        here = {node for tree in (whole, unconfirmed) for nodes in tree.conversations.values() for node in nodes}
        kept = [ask for ask in asks if ask[0] == account.user_id and ask[3] != "refused"]
        assert {prompt_node for _, prompt_node, _, _ in kept} | {each for _, _, each, _ in kept if each} <= here
    assert {prompt.is_streamed for prompt in rig.prompts if prompt.answers} == {True, False}
    assert "asked" not in {state for _, _, _, state in asks}
    assert {"answered", "incomplete", "uncertain"} <= {state for _, _, _, state in asks}
