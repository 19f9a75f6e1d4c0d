# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns: what clients of OpenAI's protocol hold of a conversation, how it is compared, and where a tree goes along."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest import branches, chatgpt_json
from chatgpt_rest.model import Completeness, Conversation, SentMessage, Turn
from chatgpt_rest.turns import (
    Match,
    ShownText,
    answer_text,
    canonical,
    canonical_turns,
    history_hashes,
    longest_match,
    path_turns,
    shown,
    tree_hashes,
)
from tests.counting import characters_read
from tests.shapes import conversation, message, odd_conversations
from tests.talks import CITE, CUT, Message, any_tree, grown, hidden, talk, turns, user

ENTITY = '\ue200entity\ue202["city","Paris","the capital"]\ue201'


def words(history: list[Turn]) -> list[Turn]:
    """A history as it is compared."""
    return [turn for turn, _ in canonical_turns(history)]


def path(tree: Conversation, end: str) -> list[tuple[str, str, str]]:
    """The turns of a branch: role, text, node."""
    return [(turn.role, turn.text, node) for turn, node in path_turns(tree, end)]


def match(tree: Conversation, *history: Turn) -> tuple[int, str] | None:
    """How many messages of a history a tree has, and where they end."""
    found = longest_match(tree, words(list(history)))
    return None if found is None else (found.known, found.node)


# -------------------------------------------------------------------------------------------------------- what is shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Plain.", "Plain."),
        (f"As they say.{CITE}", "As they say."),
        (f"In {ENTITY} it rains.", "In Paris it rains."),
        ("See \ue200url\ue202the page\ue202https://example.org/\ue201!", "See [the page](https://example.org/)!"),
        ('\ue200products\ue202{"selections": [["turn0product1", "A lamp"]]}\ue201', "A lamp"),
        ('\ue200entity\ue202["city","Pa\\ue200ris"]\ue201', "Paris"),
        ("Broken off \ue200cite\ue202turn0sea", "Broken off "),
        ("Broken off \ue200ci", "Broken off "),
        ("Odd \ue200 and \ue203 alone", "Odd  and  alone"),
        ("\ue200" + "long " * 1_000 + "\ue201", "long " * 1_000),
        ("Ünïcödé", "Ünïcödé"),
    ],
)
def test_what_is_shown_of_a_text(text: str, expected: str) -> None:
    """Markers go; what they say by themselves, a name or a link, stays."""
    assert shown(text) == expected


pieces_of_text = st.lists(
    st.sampled_from(
        ["a", "entity", "url", "cite", "\ue200", "\ue201", "\ue202", "\ue203", ENTITY, CITE, " ", "x" * 2_500]
    )
)


@given(pieces_of_text)
def test_a_text_that_comes_in_pieces_is_shown_as_the_whole(pieces: list[str]) -> None:
    """Wherever it is cut; and what was shown once stays."""
    text = ShownText()
    assert "".join(map(text.add, pieces)) + text.rest() == shown("".join(pieces))


@given(pieces_of_text)
def test_what_is_shown_has_no_marker(pieces: list[str]) -> None:
    """Showing it once more changes nothing."""
    text = shown("".join(pieces))
    assert (shown(text), any("\ue200" <= each <= "\ue20f" for each in text)) == (text, False)


def test_a_marker_is_held_back_until_it_ends() -> None:
    """And what comes before and after it is not."""
    text = ShownText()
    assert [text.add(piece) for piece in ("In \ue200ent", 'ity\ue202["city","Par', 'is"]\ue201 it', " rains")] == [
        "In ",
        "",
        "Paris it",
        " rains",
    ]


def test_what_never_ends_is_not_held_back_for_ever() -> None:
    """No marker is that long."""
    text = ShownText()
    text.add("\ue200")
    assert [bool(text.add("x" * 1_000)) for _ in range(6)] == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [("One\r\ntwo\rthree", "One\ntwo\nthree"), ("  One\n", "One"), (f"One{CITE}", "One"), (f"{CITE}\n One", "One")],
)
def test_prompts_that_are_the_same(mine: str, theirs: str) -> None:
    """Line ends, outer white space and markers make no difference."""
    assert canonical(Turn("user", mine)) == canonical(Turn("user", theirs))


def test_prompts_that_are_not_the_same() -> None:
    """White space inside a prompt may be all that was edited: programs are indented."""
    assert canonical(Turn("user", "if a:\n    b")) != canonical(Turn("user", "if a:\n        b"))


def test_answers_are_the_same_whatever_their_white_space() -> None:
    """Clients tidy them up, or join their messages otherwise."""
    assert canonical(Turn("assistant", "One.\n\nTwo  three.")) == canonical(Turn("assistant", "One. Two\nthree."))


# ------------------------------------------------------------------------------------------------------------- turns


def test_a_branch_is_prompts_and_answers() -> None:
    """Each with the node that it ends with; what nobody sees is no turn."""
    tree = grown(
        ("root", None, None),
        ("s", "root", hidden("system")),
        ("u", "s", user(" Why? ")),
        ("h", "u", hidden()),
        ("a", "h", message("So.")),
        ("t", "a", hidden("tool")),
    )
    assert path(tree, "t") == [("user", " Why? ", "u"), ("assistant", "So.", "a")]


def test_several_messages_of_the_assistant_are_one_turn() -> None:
    """A blank line apart, whatever its tools put out in between."""
    output = message(role="tool", content={"content_type": "execution_output", "text": "42"})
    tree = conversation(user("Why?"), message("Let me see."), output, message(CITE), message("So."))
    assert path(tree, "n4") == [("user", "Why?", "n0"), ("assistant", "Let me see.\n\nSo.", "n4")]


def test_an_answer_that_was_cut_goes_on_without_a_seam() -> None:
    """As in `chatgpt_json.messages`; a message after that is another one."""
    tree = conversation(
        user("Why?"), message("Be", metadata=CUT), message("cause.", metadata=CUT), message("!"), message("So.")
    )
    assert path(tree, "n4")[-1] == ("assistant", "Because.!\n\nSo.", "n4")


def test_an_image_is_an_answer_without_words() -> None:
    """It ends with the tool that made it."""
    image = {"content_type": "multimodal_text", "parts": [{"content_type": "image_asset_pointer"}]}
    tree = conversation(user("Draw."), message(role="tool", content=image))
    assert path(tree, "n1") == [("user", "Draw.", "n0"), ("assistant", "", "n1")]


def test_a_branch_in_a_cycle_has_turns() -> None:
    """Exports of 2023 have such."""
    assert path(grown(("u", "a", user("Why?")), ("a", "u", message("So."))), "a") == [
        ("user", "Why?", "u"),
        ("assistant", "So.", "a"),
    ]


def test_a_persons_system_message_is_a_turn() -> None:
    """One with words, that is."""
    settings = {"is_user_system_message": True}
    tree = conversation(
        message("", role="system", metadata=settings),
        message("Be brief.", role="system", metadata=settings),
        user("Why?"),
    )
    assert path(tree, "n2") == [("system", "Be brief.", "n1"), ("user", "Why?", "n2")]


def test_a_clients_system_message_stays_a_turn_whatever_upstream_makes_of_it() -> None:
    """Upstream's own are hidden, and it may take a client's for one of them."""
    sent = chatgpt_json.sent_node(SentMessage("s", "system", "Be brief."), parent=None, create_time=0)
    theirs = replace(sent, message=chatgpt_json.dump(message("Be brief.", role="system", id="s")))
    tree = replace(grown(("s", None, None)), nodes={"s": theirs})
    assert path(tree, "s") == [("system", "Be brief.", "s")]


@given(odd_conversations)
def test_any_conversation_can_be_read(value: dict[str, object]) -> None:
    """Whatever it holds: its turns, its hashes, and how far it goes along with a history."""
    mapping = value.get("mapping")
    try:
        tree = chatgpt_json.conversation({"id": "c", "mapping": mapping if isinstance(mapping, dict) else {}})
    except ValueError:  # NaN, or nested too deep
        return
    told = [turn for turn, _ in path_turns(tree, branches.leaf(tree) or "")]
    found = longest_match(tree, words([*told, Turn("user", "edited")]))
    assert found is None or (found.node in tree.nodes and list(tree_hashes(tree)))


# ---------------------------------------------------------------------------------------------------------- histories


def test_a_history_is_read_as_trees_are() -> None:
    """Answers in a row are one, blank system messages none; the number says where the next turn begins."""
    history = [
        Turn("system", " "),
        Turn("user", "Why? "),
        Turn("assistant", "Let me see."),
        Turn("assistant", "So."),
        Turn("system", ""),
        Turn("user", "Why?"),
        Turn("user", "Say!"),
        Turn("system", "\n"),
    ]
    assert canonical_turns(history) == [
        (Turn("user", "Why?"), 2),
        (Turn("assistant", "Letmesee.So."), 5),
        (Turn("user", "Why?"), 6),
        (Turn("user", "Say!"), 8),
    ]
    assert canonical_turns([]) == []


def test_roles_and_borders_are_hashed() -> None:
    """Histories that hold the same characters are not the same."""
    histories = [turns("a", "b"), turns("ab"), turns("", "ab"), [Turn("user", "a"), Turn("user", "b")]]
    assert len({history_hashes(words(history))[-1] for history in histories}) == len(histories)


def test_hashes_are_a_chain() -> None:
    """The hash of a beginning does not know what comes after it."""
    assert history_hashes(words(turns("a", "b", "c", "d")))[:2] == history_hashes(words(turns("a", "b")))


def test_hostile_texts_are_hashed() -> None:
    """Lone surrogates, NUL, nothing at all."""
    history = [Turn("user", "\ud800"), Turn("assistant", "\x00"), Turn("\udfff", ""), Turn("", "")]
    assert len(set(history_hashes(words(history)))) == 4


def test_hashes_do_not_change() -> None:
    """They lie in people's files: with other ones goes a migration that empties the index of them."""
    history = [Turn("system", "Be brief."), *turns("Why?", "So it is.")]
    assert history_hashes(words(history)) == [2944085214176103660, -4961969251818025354, 859114840946471452]


def test_a_tree_has_the_hash_of_each_answer_and_of_the_first_prompt() -> None:
    """On all of its branches."""
    tree = grown(
        ("u", None, user("Why?")),
        ("a", "u", message("So.")),
        ("b", "u", message("Thus.")),
        ("v", "b", user("And?")),
    )
    paths = [turns("Why?"), turns("Why?", "So."), turns("Why?", "Thus.")]
    assert set(tree_hashes(tree)) == {history_hashes(words(history))[-1] for history in paths}


# ------------------------------------------------------------------------------------------------------------ matching


def test_a_known_history_is_known_to_its_end() -> None:
    """And its end is the answer's node."""
    assert match(talk("Why?", "So.", "And?", "Thus."), *turns("Why?", "So.", "And?", "Thus.")) == (4, "n3")


def test_a_history_may_end_in_the_middle() -> None:
    """What follows in the tree is another branch."""
    assert match(talk("Why?", "So.", "And?", "Thus."), *turns("Why?", "So.")) == (2, "n1")


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (turns("Why?", "So.", "Or?", "Thus."), (2, "n1")),
        (turns("Why?", "So.", "And?", "Never."), (2, "n1")),
        (turns("Why?", "No.", "And?", "Thus."), None),
        (turns("Who?", "So.", "And?", "Thus."), None),
        ([Turn("system", "Be brief."), *turns("Why?", "So.")], None),
        (turns("Why?"), None),
        ([], None),
    ],
)
def test_an_edited_history_is_known_up_to_the_last_answer_before(
    history: list[Turn], expected: tuple[int, str] | None
) -> None:
    """And not at all where that was the first exchange."""
    assert match(talk("Why?", "So.", "And?", "Thus."), *history) == expected


def test_an_answer_that_a_client_broke_off_is_known() -> None:
    """Several times in one history, the first answer too."""
    tree = talk("Why?", "Because it is so.", "And?", "Thus it goes.", "Oh?", "Yes.")
    assert match(tree, *turns("Why?", "Because", "And?", "Thus it", "Oh?", "Yes.")) == (6, "n5")


def test_an_answer_without_words_is_none_that_was_broken_off() -> None:
    """It could be any."""
    assert match(talk("Why?", "So."), *turns("Why?", "")) is None


def test_of_an_answer_that_broke_off_upstream_a_client_may_have_more() -> None:
    """What it was shown last is written down a second later."""
    tree = talk("Why?", "Because")
    partial = replace(tree.nodes["n1"], completeness=Completeness.PARTIAL)
    history = turns("Why?", "Because it is")
    assert match(tree, *history) is None
    assert match(replace(tree, nodes={**tree.nodes, "n1": partial}), *history) == (2, "n1")


def test_an_image_is_known_with_and_without_a_message() -> None:
    """Some clients keep an answer without words, some drop it."""
    image = message(
        role="tool", content={"content_type": "multimodal_text", "parts": [{"content_type": "image_asset_pointer"}]}
    )
    tree = conversation(user("Draw."), image, user("Blue."), message("Here."))
    assert match(tree, *turns("Draw.", "", "Blue.", "Here.")) == (4, "n3")
    assert match(tree, Turn("user", "Draw."), Turn("user", "Blue."), Turn("assistant", "Here.")) == (3, "n3")
    assert match(tree, *turns("Draw.", "")) == (2, "n1")
    assert match(tree, Turn("user", "Draw."), Turn("user", "Other.")) is None


def test_the_whole_answer_beats_the_beginning_of_another() -> None:
    """Whatever branch is the current one."""
    tree = grown(
        ("u", None, user("Why?")), ("a", "u", message("So.")), ("b", "u", message("So. It goes.")), ("x", "b", None)
    )
    assert match(tree, *turns("Why?", "So.")) == (2, "a")


def test_of_equal_branches_it_is_the_current_one() -> None:
    """That is where a person would go on."""
    nodes: list[tuple[str, str | None, Message]] = [("u", None, user("Why?"))]
    nodes += [(name, "u", message("So.")) for name in "abc"]
    tree = grown(*nodes)
    for name in "abc":
        assert longest_match(replace(tree, current_node=name), words(turns("Why?", "So."))) == Match(2, 2, True, name)


@pytest.mark.parametrize(
    "lost", [{"completeness": Completeness.UNCONFIRMED}, {"is_absent_upstream": True}], ids=["unconfirmed", "vanished"]
)
def test_what_upstream_does_not_have_is_not_gone_on_from(lost: dict[str, object]) -> None:
    """The answer before it is."""
    tree = talk("Why?", "So.", "And?", "Thus.")
    nodes = {**tree.nodes, "n3": replace(tree.nodes["n3"], **lost)}  # type: ignore[arg-type]  # either of two members
    assert match(replace(tree, nodes=nodes), *turns("Why?", "So.", "And?", "Thus.")) == (2, "n1")


@pytest.mark.parametrize("count", [10_000])
def test_a_tree_may_be_deep(count: int) -> None:
    """As deep as any conversation gets."""
    texts = [str(index) for index in range(count)]
    tree = talk(*texts)
    assert match(tree, *turns(*texts)) == (count, f"n{count - 1}")
    assert len(set(tree_hashes(tree))) == count // 2 + 1


def left_all_along(count: int) -> Conversation:
    """One long answer of so many messages, and at each of them a prompt that leaves it."""
    nodes: list[tuple[str, str | None, Message]] = []
    for index in range(count):
        nodes.append((f"a{index}", f"a{index - 1}" if index else None, message("So it goes. ", metadata=CUT)))
        nodes.append((f"u{index}", f"a{index}", user("Why?")))
    return grown(*nodes)


def growth(work: Callable[[Conversation], object]) -> float:
    """How many times as much there is to read where such a tree is four times as large."""
    small, large = left_all_along(100), left_all_along(400)
    return characters_read(lambda: work(large)) / characters_read(lambda: work(small))


def test_an_answer_that_branches_leave_all_along_is_read_once() -> None:
    """To hash a tree takes as long as it is large: two megabytes in an import could stop the server otherwise."""
    assert growth(lambda tree: list(tree_hashes(tree))) < 4.1


@pytest.mark.parametrize("answer", ["So it goes. " * 400, "So it goes. " * 50 + "No."], ids=["whole", "edited"])
def test_an_answer_that_branches_leave_all_along_is_compared_once(answer: str) -> None:
    """However far a history goes along with it."""
    history = words([Turn("assistant", answer)])
    assert growth(lambda tree: longest_match(tree, history)) < 4.1


@given(st.randoms(use_true_random=False))
def test_every_path_of_a_tree_is_found_in_it(random: Random) -> None:
    """Up to each of its answers, by its hash and by its turns; an equal one will do."""
    tree = any_tree(random)
    inner = {each.parent for each in tree.nodes.values()}
    for end in tree.nodes.keys() - inner:
        told = path_turns(tree, end)
        for length in range(1, len(told) + 1):
            history = words([turn for turn, _ in told[:length]])
            if told[length - 1].turn.role != "assistant":
                continue
            found = longest_match(tree, history)
            assert found is not None
            assert found[:2] == (len(history), len(history))
            there = words([turn for turn, _ in path_turns(tree, found.node)])
            assert [each for each in there if each.text] == [each for each in history if each.text]
            assert history_hashes(history)[-1] in tree_hashes(tree)


@given(st.randoms(use_true_random=False))
def test_an_answer_is_what_messages_say(random: Random) -> None:
    """Between two prompts, as `chatgpt_json.messages` gives them."""
    tree = any_tree(random)
    seen = [
        each for each in chatgpt_json.messages(tree) if each["author"]["role"] != "system" or each["message"].strip()
    ]
    groups = itertools.groupby(seen, key=lambda each: each["author"]["role"] in {"user", "system"})
    told = [turn.text for turn, _ in path_turns(tree, tree.current_node or "") if turn.role == "assistant"]
    assert told == [answer_text(group) for is_prompt, group in groups if not is_prompt]


@given(st.randoms(use_true_random=False))
def test_of_an_edited_path_the_longest_beginning_is_found(random: Random) -> None:
    """It ends with the last answer before the edited turn."""
    tree = any_tree(random)
    history = words([turn for turn, _ in path_turns(tree, tree.current_node or "")])
    edited = random.randrange(len(history) + 1)
    known = [index for index, turn in enumerate(history[:edited], start=1) if turn.role == "assistant"]
    history[edited:] = [Turn("user", "edited"), *history[edited + 1 :]]
    found = longest_match(tree, history)
    assert (0 if found is None else found.known) == max(known, default=0)
