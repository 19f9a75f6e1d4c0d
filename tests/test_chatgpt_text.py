# SPDX-License-Identifier: GPL-2.0-or-later
"""What a conversation says: who said what on which branch, with which choices, under which footnotes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given

from chatgpt_rest import chatgpt_json
from chatgpt_rest.chatgpt_passages import Aside, Document, Words
from chatgpt_rest.chatgpt_text import everything, plain, transcript
from chatgpt_rest.clock import SECOND
from chatgpt_rest.model import Completeness, Conversation
from tests.shapes import MAY_2023, conversation, message, odd_conversations

THOUGHTS = message(content={"content_type": "thoughts", "thoughts": [{"summary": "S", "content": "C"}]})
RECAP = message(content={"content_type": "reasoning_recap", "content": "Thought for 7s"})
SYSTEM = message("Be kind.", role="system")


def forked(current: str, **nodes: tuple[str | None, dict[str, Any] | None]) -> Conversation:
    """A conversation of nodes with the parents and messages given."""
    mapping = {
        key: {"id": key, "parent": parent, "message": told and {**told, "id": key}}
        for key, (parent, told) in nodes.items()
    }
    return chatgpt_json.conversation({"id": "conversation", "mapping": mapping, "current_node": current})


def said(tree: Conversation, *, end: str | None = None, hidden: bool = False) -> list[str]:
    """The words of each message."""
    return [plain(each) for each in transcript(tree, end=end, hidden=hidden)]


def test_a_message_says_who_and_when() -> None:
    """Role, name, model, time and node are told."""
    tree = conversation(
        message("Hi", role="user"),
        message("Ho", metadata={"model_slug": "gpt-4"}),
        message(author={"role": "tool", "name": "python"}, content={"content_type": "execution_output", "text": "1"}),
    )
    first, second, third = transcript(tree)
    assert (first.role, first.name, first.model, first.node_id, first.parent) == ("user", None, None, "n0", None)
    assert (second.role, second.model, second.create_time) == ("assistant", "gpt-4", round(MAY_2023 * SECOND))
    assert (third.role, third.name, third.content_type) == ("tool", "python", "execution_output")


def test_hidden_messages_are_left_out_unless_asked_for() -> None:
    """The rules of ChatGPT's page hold, and what they hide can be seen."""
    tree = conversation(SYSTEM, message("Hi", role="user"), message("Ho"))
    assert said(tree) == ["Hi", "Ho"]
    assert said(tree, hidden=True) == ["Be kind.", "Hi", "Ho"]
    assert [each.is_hidden for each in transcript(tree, hidden=True)] == [True, False, False]


def test_empty_messages_are_left_out() -> None:
    """What says nothing is no message to a reader."""
    assert said(conversation(message("Hi", role="user"), message(""), message("Ho"))) == ["Hi", "Ho"]


def test_reasoning_stands_with_its_answer() -> None:
    """Thoughts and recap come with the answer that follows, under its id, and are not its words."""
    _, answer = transcript(conversation(message("Hi", role="user"), THOUGHTS, RECAP, message("Ho")))
    assert answer.node_id == "n3"
    assert answer.passages == (Aside("S", "C"), Aside("Thought for 7s", ""), Words("Ho"))
    assert plain(answer) == "Ho"


def test_reasoning_with_no_answer_stands_alone() -> None:
    """An answer that was stopped while the model thought is not lost."""
    _, alone, _ = transcript(conversation(message("Hi", role="user"), THOUGHTS, message("Stop", role="user")))
    assert (alone.is_aside, plain(alone)) == (True, "C")


def test_reasoning_that_chatgpt_hides_for_good_is_left_out() -> None:
    """What is visually hidden is not offered either."""
    hidden = {**THOUGHTS, "metadata": {"is_visually_hidden_from_conversation": True}}
    assert said(conversation(hidden, message("Ho"))) == ["Ho"]


def test_a_canvas_stands_with_its_answer() -> None:
    """A document is offered though the message that wrote it is hidden."""
    content = {"content_type": "code", "text": '{"name": "d", "content": "words"}'}
    tree = conversation(message(recipient="canmore.create_textdoc", content=content), message("Done."))
    (answer,) = transcript(tree)
    assert answer.passages == (Document("d", "words"), Words("Done."))


def test_an_answer_that_was_cut_is_one() -> None:
    """What went on in the next message is joined without a seam, under the id of the part that ended it."""
    cut = message("| a |\n|-", metadata={"finish_details": {"type": "max_tokens"}})
    (answer,) = transcript(conversation(cut, message("--|")))
    assert (answer.node_id, answer.passages) == ("n1", (Words("| a |\n|---|"),))


def test_an_incomplete_answer_says_so() -> None:
    """An answer that broke off is marked, and shown even where nothing of it came."""
    tree = conversation(message("Hi", role="user"), message(""))
    partial = replace(tree.nodes["n1"], completeness=Completeness.PARTIAL)
    assert [each.is_partial for each in transcript(replace(tree, nodes={**tree.nodes, "n1": partial}))] == [False, True]


# ------------------------------------------------------------------------------------------------------------ branches


def test_the_branch_that_is_asked_for_is_shown() -> None:
    """Any node can end it; without one it is the current branch."""
    tree = forked(
        "b", q=(None, message("Why?", role="user")), a=("q", message("Because.")), b=("q", message("Who knows."))
    )
    assert said(tree) == ["Why?", "Who knows."]
    assert said(tree, end="a") == ["Why?", "Because."]


def test_a_fork_tells_its_versions() -> None:
    """A message that has others in its place names them all, and says which one it is."""
    tree = forked(
        "b", q=(None, message("Why?", role="user")), a=("q", message("Because.")), b=("q", message("Who knows."))
    )
    question, answer = transcript(tree)
    assert (question.versions, question.version) == ((), 0)
    assert (answer.versions, answer.version) == (("a", "b"), 1)


def test_a_fork_in_what_is_hidden_is_a_choice_of_what_follows() -> None:
    """Two ways to think about it are two versions of the answer; a version that shows nothing is none."""
    tree = forked(
        "a2",
        q=(None, message("Why?", role="user")),
        a1=("q", SYSTEM),
        a2=("a1", message("Because.")),
        b1=("q", SYSTEM),
        b2=("b1", message("Who knows.")),
        c1=("q", SYSTEM),
    )
    assert [each.versions for each in transcript(tree)] == [(), ("a1", "b1")]


def test_two_forks_in_a_row_are_one_choice() -> None:
    """What could be chosen later stands in the place of what was chosen first."""
    tree = forked(
        "a3",
        q=(None, message("Why?", role="user")),
        x=("q", message("X")),
        a1=("q", THOUGHTS),
        a2=("a1", message("A2")),
        a3=("a1", message("A3")),
        z=("q", message("Z")),
    )
    assert [(each.versions, each.version) for each in transcript(tree)] == [((), 0), (("x", "a2", "a3", "z"), 2)]


def test_cycles_are_survived() -> None:
    """Exports of 2023 have nodes that are their own ancestors."""
    tree = forked("a", a=("b", message("A")), b=("a", message("B")))
    assert said(tree) == ["B", "A"]
    assert len(everything(tree)) == 2


# ----------------------------------------------------------------------------------------------------------- footnotes


def test_footnotes_are_numbered_through_the_conversation() -> None:
    """Numbers go on from one message to the next, and skip what the texts number themselves."""
    cited: dict[str, Any] = {"metadata": {"content_references": [{"title": "A", "url": "https://a.example/"}]}}
    text = "x\ue200cite\ue202turn0search0\ue201"
    first, second = transcript(conversation(message(text + " [^1]", **cited), message(text, **cited)))
    assert [each.label for each in (*first.footnotes, *second.footnotes)] == ["2", "3"]
    assert second.passages == (Words("x[^3]"),)


def test_what_a_tool_found_is_cited_by_the_answer() -> None:
    """The search results of one message serve the markers of another."""
    entry = {
        "title": "A",
        "url": "https://a.example/",
        "ref_id": {"turn_index": 0, "ref_type": "search", "ref_index": 0},
    }
    tool = message("…", role="tool", metadata={"search_result_groups": [{"entries": [entry]}]})
    (answer,) = transcript(conversation(tool, message("x\ue200cite\ue202turn0search0\ue201")))
    assert [each.title for each in answer.footnotes] == ["A"]


# ---------------------------------------------------------------------------------------------------------- everything


def test_everything_is_every_message() -> None:
    """All branches, hidden ones too, in the order they came; nodes with no message are none."""
    tree = forked(
        "b", root=(None, None), s=("root", SYSTEM), a=("s", message("A")), b=("s", message("")), c=("a", THOUGHTS)
    )
    assert [each.node_id for each in everything(tree)] == ["s", "a", "b", "c"]


@given(odd_conversations)
def test_no_conversation_makes_it_fail(value: dict[str, Any]) -> None:
    """Whatever passes for a conversation has a transcript, on every branch."""
    try:
        tree = chatgpt_json.conversation(value)
    except ValueError:
        return
    for end in (None, *tree.nodes):
        for each in transcript(tree, end=end, hidden=True):
            plain(each)
    assert len({each.node_id for each in everything(tree)}) <= len(tree.nodes)
