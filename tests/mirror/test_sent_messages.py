# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages that go upstream with a prompt: they are down before they leave, and share the prompt's fate."""

from __future__ import annotations

import json
from dataclasses import replace

from chatgpt_rest import chatgpt_json
from chatgpt_rest.clock import SECOND
from chatgpt_rest.mirror import AccountMirror, AskRecord, AskState, Standing
from chatgpt_rest.model import Completeness, Conversation, Node, Question, SentMessage
from chatgpt_rest.turns import path_turns
from tests.house import NOON
from tests.shapes import message
from tests.talks import talk

BEFORE = (
    SentMessage("system", "system", "Be brief."),
    SentMessage("asked", "user", "Who?"),
    SentMessage("said", "assistant", "I."),
)
WORDS = ["Be brief.", "Who?", "I.", "Why?"]


async def begin(
    mirror: AccountMirror,
    *,
    conversation_id: str | None = None,
    parent_id: str | None = None,
    before: tuple[SentMessage, ...] = BEFORE,
    ask_id: str = "ask",
) -> None:
    """Write a prompt down with what goes before it; a new conversation begins as the draft `draft`."""
    question = Question(f"prompt of {ask_id}", "Why?", conversation_id, parent_id, "gpt-5", before=before)
    await mirror.asks.begin(
        ask_id, question, draft_id="draft", title=None, idempotency_digest=None, request_digest=b"request"
    )


async def end(mirror: AccountMirror, state: AskState, *nodes: Node, conversation_id: str | None = None) -> AskRecord:
    """Write down how the ask ended."""
    return await mirror.asks.end("ask", state, nodes, conversation_id=conversation_id, title=None)


def answer(words: str = "So.") -> Node:
    """What came back."""
    return chatgpt_json.node(message(words, id="answer"), parent="prompt of ask")


async def words(mirror: AccountMirror, conversation_id: str) -> list[str]:
    """The texts that a reader of the conversation sees."""
    rendered = await mirror.conversations.messages_json(conversation_id)
    return [entry["message"] for entry in json.loads(rendered.body)]


async def unconfirmed(mirror: AccountMirror, conversation_id: str) -> set[str]:
    """The nodes that upstream gave no sign of."""
    tree = await mirror.conversations.get(conversation_id)
    return {node.id for node in tree.nodes.values() if node.completeness is Completeness.UNCONFIRMED}


def upstreams(*, hides: bool) -> Conversation:
    """The same conversation as upstream shows it, below a root of its own. With `hides` the client's system message is
    one of upstream's there.
    """
    settings = {} if hides else {"is_user_system_message": True}
    path = [
        ("root", None),
        ("system", message("Be brief.", role="system", metadata=settings)),
        ("asked", message("Who?", role="user")),
        ("said", message("I.")),
        ("prompt of ask", message("Why?", role="user")),
        ("answer", message("So.")),
    ]
    mapping = {
        key: {"id": key, "parent": path[index - 1][0] if index else None, "message": said and {**said, "id": key}}
        for index, (key, said) in enumerate(path)
    }
    value = {"id": "c", "title": "A", "mapping": mapping, "current_node": "answer", "update_time": NOON / SECOND + 1}
    return chatgpt_json.conversation(value)


async def test_what_goes_before_a_prompt_is_written_in_front_of_it(alice: AccountMirror) -> None:
    """In order, the client's system message too, none of it confirmed."""
    await begin(alice)
    assert await words(alice, "draft") == WORDS
    assert await unconfirmed(alice, "draft") == {"system", "asked", "said", "prompt of ask"}


async def test_it_hangs_on_the_message_that_the_ask_goes_on_from(alice: AccountMirror) -> None:
    """And the prompt on the last of it."""
    await alice.conversations.save_whole(talk("Hi.", "Hello."))
    await begin(alice, conversation_id="c", parent_id="n1")
    assert await words(alice, "c") == ["Hi.", "Hello.", *WORDS]


async def test_an_answer_confirms_all_of_it(alice: AccountMirror) -> None:
    """Upstream takes a request as a whole; and the answer is what came, not what was sent as one."""
    await begin(alice)
    record = await end(alice, AskState.ANSWERED, answer(), conversation_id="c")
    assert record.answer_node == "answer"
    assert await words(alice, "c") == [*WORDS, "So."]
    assert await unconfirmed(alice, "c") == set()


async def test_a_refusal_takes_all_of_it_back(alice: AccountMirror) -> None:
    """The conversation stands where it stood."""
    await alice.conversations.save_whole(talk("Hi.", "Hello."))
    await begin(alice, conversation_id="c", parent_id="n0")
    await end(alice, AskState.REFUSED)
    tree = await alice.conversations.get("c")
    assert (set(tree.nodes), tree.current_node) == ({"n0", "n1"}, "n1")


async def test_a_refused_draft_is_gone(alice: AccountMirror) -> None:
    """Nothing is left in it."""
    await begin(alice)
    await end(alice, AskState.REFUSED)
    assert await alice.conversations.standing("draft") is Standing.UNKNOWN


async def test_a_refusal_takes_back_what_it_brought_alone(alice: AccountMirror) -> None:
    """Another prompt that nobody knows the fate of stays, below the same answer."""
    await alice.conversations.save_whole(talk("Hi.", "Hello."))
    await begin(alice, conversation_id="c", parent_id="n1", ask_id="other", before=())
    await begin(alice, conversation_id="c", parent_id="n1")
    await end(alice, AskState.REFUSED)
    assert await unconfirmed(alice, "c") == {"prompt of other"}


async def test_nothing_sent_is_there_twice_after_a_fetch(alice: AccountMirror) -> None:
    """Upstream keeps what it is sent under the ids it is sent with."""
    await begin(alice)
    await end(alice, AskState.ANSWERED, answer(), conversation_id="c")
    await alice.conversations.save_whole(upstreams(hides=False))
    assert await words(alice, "c") == [*WORDS, "So."]


async def test_what_was_uncertain_is_found_again(alice: AccountMirror) -> None:
    """The draft becomes what upstream made of it."""
    await begin(alice)
    await end(alice, AskState.UNCERTAIN)
    assert await unconfirmed(alice, "draft") == {"system", "asked", "said", "prompt of ask"}
    await alice.conversations.save_whole(upstreams(hides=False))
    assert await alice.conversations.standing("draft") is Standing.UNKNOWN
    assert await words(alice, "c") == [*WORDS, "So."]
    assert await unconfirmed(alice, "c") == set()


async def test_a_clients_system_message_stays_one(alice: AccountMirror) -> None:
    """Where upstream forgets whose it is, its clients' histories begin with it all the same."""
    await begin(alice)
    await end(alice, AskState.ANSWERED, answer(), conversation_id="c")
    await alice.conversations.save_whole(upstreams(hides=True))
    tree = await alice.conversations.get("c")
    assert [turn.text for turn, _ in path_turns(tree, "answer")] == [*WORDS, "So."]
    again = chatgpt_json.conversation(json.loads(chatgpt_json.whole(tree)))  # as our own export tells it
    assert path_turns(again, "answer") == path_turns(replace(tree, title=None), "answer")
