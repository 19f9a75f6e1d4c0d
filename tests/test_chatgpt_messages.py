# SPDX-License-Identifier: GPL-2.0-or-later
"""What a reader sees of a conversation: hidden rules, texts, the seed's message object, continued answers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest import chatgpt_json
from chatgpt_rest.clock import SECOND
from chatgpt_rest.model import Completeness, SentMessage
from tests.shapes import MAY_2023, conversation, conversation_json, message, shown, slim_message, words

IMAGE = {"content_type": "image_asset_pointer", "asset_pointer": "sediment://file_1", "metadata": None}


def content(content_type: object, **members: object) -> dict[str, Any]:
    """The `content` member of a message."""
    return {"content": {"content_type": content_type, **members}}


# ------------------------------------------------------------------------------------------------------------- hidden


@pytest.mark.parametrize(
    "hidden",
    [
        pytest.param(None, id="no message"),
        pytest.param("words", id="no object"),
        pytest.param(message(metadata={"is_visually_hidden_from_conversation": True}), id="visually hidden"),
        pytest.param(message(weight=0), id="weight 0"),
        pytest.param(message(weight=0.0), id="weight 0.0"),
        pytest.param(message(role="system"), id="system"),
        pytest.param(message(role="system", metadata=None), id="system with null metadata"),
        pytest.param(message(recipient="browser"), id="assistant to a tool"),
        pytest.param(message(recipient="canmore.create_textdoc"), id="assistant to the canvas"),
        pytest.param(message(recipient=["all"]), id="assistant to a list"),
        pytest.param(message(recipient={}), id="assistant to an object"),
        pytest.param(message(role="tool"), id="tool with text"),
        pytest.param(message(role="tool", **content("multimodal_text", parts=["words"])), id="tool with no image"),
        pytest.param(message(role="tool", content=None), id="tool with nothing"),
        *(
            pytest.param(message(role=role, **content(kind)), id=f"{kind} of {role}")
            for kind in ("user_editable_context", "model_editable_context", "thoughts", "reasoning_recap")
            for role in ("user", "assistant", "tool")
        ),
        *(
            pytest.param(message(role="tool", **content(kind, text="words")), id=kind)
            for kind in ("sonic_webpage", "system_error", "tether_browsing_display")
        ),
        pytest.param(slim_message(role="system"), id="slim system"),
        pytest.param(slim_message(role="tool"), id="slim tool"),
    ],
)
def test_what_chatgpt_leaves_out_is_hidden(hidden: object) -> None:
    """Each hidden rule of ChatGPT's own page holds here."""
    assert chatgpt_json.is_hidden(hidden)


@pytest.mark.parametrize(
    "visible",
    [
        pytest.param(message(), id="assistant"),
        pytest.param(message(role="user"), id="user"),
        pytest.param(message(recipient=None), id="null recipient"),
        pytest.param({"author": {"role": "assistant"}}, id="nothing but a role"),
        pytest.param({}, id="nothing at all"),
        pytest.param(message(weight=None), id="null weight"),
        pytest.param(message(weight="0"), id="weight of the wrong type"),
        pytest.param(message(role="system", metadata={"is_user_system_message": True}), id="system of the user"),
        pytest.param(message(role="tool", **content("execution_output", text="1")), id="what code printed"),
        pytest.param(message(role="tool", **content("tether_quote", text="…")), id="a quote"),
        pytest.param(message(role="tool", **content("multimodal_text", parts=[IMAGE])), id="an image"),
        pytest.param(message(**content("computer_output")), id="an unknown type"),
        pytest.param(message(**content({"a": 1})), id="a type that is an object"),
        pytest.param(message(**content(["thoughts"])), id="a type that is a list"),
        pytest.param(message(author={"role": {"a": 1}}), id="a role that is an object"),
        pytest.param(message(author=["assistant"]), id="an author that is a list"),
        pytest.param(message(metadata=["is_visually_hidden_from_conversation"]), id="metadata that are a list"),
        pytest.param(slim_message(), id="slim"),
    ],
)
def test_everything_else_is_visible(visible: object) -> None:
    """What the rules do not name is shown, whatever it is made of."""
    assert not chatgpt_json.is_hidden(visible)


def test_hidden_messages_are_left_out_and_kept() -> None:
    """Hidden is a matter of view: the list of messages has no trace of it, the whole conversation has all of it."""
    hidden = message("hidden", role="system")
    tree = conversation(hidden, message("Why?", role="user"), message("Because."))
    assert [each["message"] for each in chatgpt_json.messages(tree)] == ["Why?", "Because."]
    assert json.loads(chatgpt_json.whole(tree))["mapping"]["n0"]["message"] == {**hidden, "id": "n0"}


# --------------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param(content("text", parts=["a"]), "a", id="text"),
        pytest.param(content("text", parts=["a", IMAGE, "b"]), "a\nb", id="text with objects between"),
        pytest.param(content("text", parts=[""]), "", id="empty text"),
        pytest.param(content("text", parts=[]), "", id="no parts"),
        pytest.param(content("text", parts=None), "", id="null parts"),
        pytest.param(content("text", parts="words"), "", id="parts that are text"),
        pytest.param(content("text", parts=[None, 5, ["x"], "a"]), "a", id="parts of any type"),
        pytest.param(content("text"), "", id="parts missing"),
        pytest.param(
            content("multimodal_text", parts=["a", IMAGE, {"content_type": "audio_transcription", "text": "t"}, "b"]),
            "a\nb",
            id="multimodal: the strings",
        ),
        pytest.param(content("code", language="python", text="x = 1"), "x = 1", id="code"),
        pytest.param(
            {**content("code"), "metadata": {"finished_text": "y"}}, "y", id="code whose text stands in the metadata"
        ),
        pytest.param(
            {**content("code", text=None), "metadata": {"finished_text": "y"}}, "y", id="code whose text is null"
        ),
        pytest.param({**content("code", text=""), "metadata": {"finished_text": "y"}}, "", id="code that is empty"),
        pytest.param(content("code", text=["x"]), "", id="code that is a list"),
        pytest.param(content("execution_output", text="1\n"), "1\n", id="what code printed"),
        *(
            pytest.param(content(kind, text="t", content="c", result="r", parts=["p"]), "", id=kind)
            for kind in ("tether_quote", "tether_browsing_display", "sonic_webpage", "system_error", "reasoning_recap")
        ),
        *(
            pytest.param(content(kind, text="t", parts=["p"]), "", id=kind)
            for kind in ("thoughts", "app_pairing_content", "computer_output", "tether_browsing_code", "")
        ),
        pytest.param(content(None, parts=["a"]), "", id="null type"),
        pytest.param({"content": None}, "", id="null content"),
        pytest.param({"content": ["a"]}, "", id="content that is a list"),
        pytest.param({"content": "a"}, "", id="content that is text"),
    ],
)
def test_the_text_of_each_content_type(members: dict[str, Any], expected: str) -> None:
    """Words come as upstream wrote them; a type that is not plain words has none."""
    assert chatgpt_json.text(message(**members)) == expected


@given(words)
def test_a_text_is_not_touched(written: str) -> None:
    """Markers, lone surrogates, NUL and every kind of line break come through."""
    assert shown(message(written))[0]["message"] == written


@pytest.mark.parametrize(
    "marked",
    ["\ue200cite\ue202turn0search0\ue201", "【11†source】", ":contentReference[oaicite:2]{index=2}", "\ue203\ue204"],
)
def test_markers_stay_where_upstream_wrote_them(marked: str) -> None:
    """`message` is for programs: only pages and exports resolve markers."""
    assert shown(message(f"Paris{marked}."))[0]["message"] == f"Paris{marked}."


# ------------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("members", "field", "expected"),
    [
        pytest.param({}, "author", {"role": "assistant", "name": None, "metadata": {}}, id="author"),
        pytest.param(
            {"author": {"role": "user"}},
            "author",
            {"role": "user", "name": None, "metadata": {}},
            id="author with its gaps filled",
        ),
        pytest.param(
            {
                "author": {"role": "user"},
                "metadata": {"author": {"role": "assistant", "name": "n", "metadata": {"a": 1}}},
            },
            "author",
            {"role": "assistant", "name": "n", "metadata": {"a": 1}},
            id="author of the metadata",
        ),
        pytest.param({}, "conversation_id", "conversation", id="conversation_id"),
        pytest.param({}, "parent_id", "n0", id="parent_id is the message's own id"),
        pytest.param({}, "id", "n0", id="id"),
        pytest.param({}, "model", None, id="model missing"),
        pytest.param({"metadata": {"model_slug": "gpt-5"}}, "model", "gpt-5", id="model"),
        pytest.param({"metadata": {"model_slug": ["gpt-5"]}}, "model", None, id="model of the wrong type"),
        pytest.param({}, "finish_details", None, id="finish_details missing"),
        pytest.param({"metadata": {"finish_details": None}}, "finish_details", None, id="finish_details null"),
        pytest.param({"metadata": {"finish_details": "stop"}}, "finish_details", None, id="finish_details of text"),
        pytest.param({"metadata": {"finish_details": {"type": "stop"}}}, "finish_details", "stop", id="finish_details"),
        pytest.param({"end_turn": True}, "end_turn", True, id="end_turn"),
        pytest.param({"end_turn": None}, "end_turn", None, id="end_turn null stays null"),
        pytest.param({"end_turn": False}, "end_turn", False, id="end_turn false"),
        pytest.param({"recipient": "all"}, "recipient", "all", id="recipient"),
        pytest.param({}, "citations", [], id="citations missing"),
        pytest.param({"metadata": {"citations": None}}, "citations", [], id="citations null"),
        pytest.param({"metadata": {"citations": [{"start_ix": 1}]}}, "citations", [{"start_ix": 1}], id="citations"),
        pytest.param({"metadata": None}, "citations", [], id="metadata null"),
        pytest.param({}, "create_time", MAY_2023, id="create_time"),
        pytest.param({}, "content", {"content_type": "text", "parts": ["Hello."]}, id="content"),
    ],
)
def test_the_message_object_row_by_row(members: dict[str, Any], field: str, expected: object) -> None:
    """Each field is where the facts say that it comes from."""
    (entry,) = shown(message(**members))
    assert entry[field] == expected
    assert type(entry[field]) is type(expected)


@pytest.mark.parametrize(("field", "expected"), [("end_turn", True), ("recipient", "all"), ("citations", [])])
def test_what_a_slim_message_leaves_out_has_its_default(field: str, expected: object) -> None:
    """A slim export answers with the same fields as a full one."""
    assert shown(slim_message())[0][field] == expected


def test_the_message_object_begins_with_the_seeds_nine_fields() -> None:
    """Clients of the seed find theirs; what was added stands behind."""
    assert list(shown(message())[0]) == [
        *("author", "message", "conversation_id", "parent_id", "model", "finish_details", "end_turn", "recipient"),
        *("citations", "id", "create_time", "content"),
    ]


# ------------------------------------------------------------------------------------------------- continued answers


def cut(words: str, *, role: str = "assistant") -> dict[str, Any]:
    """A message that ended because it grew too long."""
    return message(words, role=role, metadata={"finish_details": {"type": "max_tokens"}})


def test_a_continued_answer_is_one_message_with_no_seam() -> None:
    """The newline at the seam stays, and the message goes by the id of the part that ended it."""
    (entry,) = shown(cut("one\n"), cut("\ntwo "), message("three"))
    assert entry["message"] == "one\n\ntwo three"
    assert entry["content"] == {"content_type": "text", "parts": ["one\n\ntwo three"]}
    assert (entry["id"], entry["parent_id"], entry["finish_details"]) == ("n2", "n2", None)


def test_an_answer_that_is_still_cut_says_so() -> None:
    """Where the last part was cut too, the client sees `max_tokens`."""
    (entry,) = shown(cut("one "), cut("two"))
    assert (entry["message"], entry["finish_details"]) == ("one two", "max_tokens")


def test_a_cut_answer_and_the_next_prompt_stay_apart() -> None:
    """Only the assistant goes on with what the assistant began."""
    entries = shown(cut("one"), message("go on", role="user"), message("two"))
    assert [entry["message"] for entry in entries] == ["one", "go on", "two"]


def test_two_answers_of_which_none_was_cut_stay_apart() -> None:
    """Several messages of one turn are shown as upstream shows them."""
    assert [entry["message"] for entry in shown(message("one"), message("two"))] == ["one", "two"]


def test_a_prompt_is_never_taken_for_a_cut_answer() -> None:
    """Whatever its metadata say, a user's message is whole."""
    assert [entry["message"] for entry in shown(cut("one", role="user"), message("two"))] == ["one", "two"]


def test_a_cut_answer_whose_next_part_is_hidden_stays_as_it_is() -> None:
    """What nobody may see is not joined to what everybody sees."""
    entries = shown(cut("one"), message("hidden", weight=0), message("two"))
    assert [entry["message"] for entry in entries] == ["one", "two"]


# ------------------------------------------------------------------------------------------------------------- answer


@pytest.mark.parametrize(
    "path",
    [
        pytest.param((message("Why?", role="user"), message("Because.")), id="plain"),
        pytest.param((message("Why?", role="user"), cut("Be"), message("cause.")), id="continued"),
        pytest.param(
            (message("Why?", role="user"), message(role="tool", **content("execution_output", text="1"))), id="tool"
        ),
    ],
)
def test_an_ask_answers_with_the_object_that_ends_the_messages(path: tuple[dict[str, Any], ...]) -> None:
    """The two are equal field by field."""
    tree = conversation(*path)
    assert chatgpt_json.answer(tree, f"n{len(path) - 1}") == chatgpt_json.messages(tree)[-1]


def test_an_ask_that_ended_in_a_hidden_message_still_answers() -> None:
    """The answer was paid for, and is shown to the one who asked."""
    tree = conversation(message("Why?", role="user"), message("thinking", weight=0))
    assert chatgpt_json.answer(tree, "n1")["message"] == "thinking"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param((), None, id="nothing came"),
        pytest.param((message(role="user"),), "n0", id="only an echo"),
        pytest.param((message(role="user"), message()), "n1", id="an answer"),
        pytest.param((message(), message(recipient="python")), "n0", id="a note to a tool behind it"),
        pytest.param((message(), message(role="tool")), "n0", id="a note of a tool behind it"),
        pytest.param((message(recipient="python"), message(role="tool")), "n0", id="nothing but notes"),
    ],
)
def test_of_what_a_stream_has_shown_the_assistants_last_words_are_the_answer(
    path: tuple[dict[str, Any], ...], expected: str | None
) -> None:
    """Not the notes to its tools, as long as it said anything else."""
    end = chatgpt_json.answer_end(list(conversation(*path).nodes.values()))
    assert (None if end is None else end.id) == expected


def test_an_answer_that_broke_off_says_so() -> None:
    """In the list of messages and in the whole conversation; a complete one has no such member."""
    tree = conversation(message("Why?", role="user"), message("Beca"))
    partial = replace(tree.nodes["n1"], completeness=Completeness.PARTIAL)
    tree = replace(tree, nodes={**tree.nodes, "n1": partial})
    assert [entry.get("is_partial") for entry in chatgpt_json.messages(tree)] == [None, True]
    nodes = json.loads(chatgpt_json.whole(tree))["mapping"]
    assert ("is_partial" in nodes["n0"], nodes["n1"]["is_partial"]) == (False, True)


def test_messages_follow_the_branch_that_is_asked_for() -> None:
    """Another end than the current node shows another branch."""
    tree = conversation(message("a"), message("b"), message("c"))
    assert [entry["message"] for entry in chatgpt_json.messages(tree, "n1")] == ["a", "b"]


def test_a_prompt_looks_like_upstreams_own() -> None:
    """Before upstream has answered, a prompt is shown with every field of the seed's."""
    node = chatgpt_json.sent_node(SentMessage("p", "user", "Why?"), parent="root", create_time=round(MAY_2023 * SECOND))
    assert (node.parent, node.completeness, node.create_time) == (
        "root",
        Completeness.UNCONFIRMED,
        1_685_293_988_233_528,
    )
    assert not chatgpt_json.is_hidden(json.loads(node.message or b""))
    assert chatgpt_json.text(json.loads(node.message or b"")) == "Why?"


# -------------------------------------------------------------------------------------------------------------- whole

keys = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
lossless = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**60), 10**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@given(extra=st.dictionaries(keys, lossless, max_size=3), raw=st.dictionaries(keys, lossless, max_size=3))
def test_every_key_and_value_comes_out_as_it_came(extra: dict[str, Any], raw: dict[str, Any]) -> None:
    """Unknown members survive wherever they stand: floats bit for bit, huge integers, lone surrogates."""
    value = conversation_json(None, {**message(), "unknown": raw}, safe_urls=extra)
    value["mapping"]["n1"] |= {"unknown": extra}
    came_out = chatgpt_json.whole(chatgpt_json.conversation(value))
    # Equal as text: a float that lost its last bit, or an integer that became one, would show.
    assert json.dumps(json.loads(came_out), sort_keys=True) == json.dumps(
        {**value, "is_archived": False}, sort_keys=True
    )


@given(st.dictionaries(words, lossless, max_size=4))
def test_packed_members_come_out_byte_for_byte(members: dict[str, Any]) -> None:
    """What the mirror keeps of a conversation's envelope is what it was given."""
    raw = {name: chatgpt_json.dump(value) for name, value in members.items()}
    assert chatgpt_json.unpack(chatgpt_json.pack(raw)) == raw


def test_a_slim_conversation_comes_out_in_the_full_shape() -> None:
    """Nodes get their `children`; messages stay as slim as they came."""
    value = conversation_json(None, slim_message())
    for node in value["mapping"].values():
        del node["children"]
    mapping = json.loads(chatgpt_json.whole(chatgpt_json.conversation(value)))["mapping"]
    assert [node["children"] for node in mapping.values()] == [["n1"], []]
    assert mapping["n1"]["message"] == {**slim_message(), "id": "n1"}


def test_a_conversation_that_began_here_has_times_all_the_same() -> None:
    """With no envelope of upstream's, what the mirror knows stands in its place."""
    value = json.loads(chatgpt_json.whole(chatgpt_json.conversation({"id": "c", "mapping": {}})))
    assert (value["conversation_id"], value["create_time"], value["update_time"]) == ("c", None, None)


def test_a_conversation_that_vanished_upstream_says_so() -> None:
    """Nobody takes what is only here for what is there."""
    tree = replace(conversation(None), is_deleted_upstream=True)
    assert json.loads(chatgpt_json.whole(tree))["deleted_upstream"] is True


def test_an_update_time_that_is_newer_than_what_came_is_shown() -> None:
    """After an ask the whole conversation is as new as the list says."""
    tree = replace(conversation(None), update_time=1_700_000_000_500_000)
    assert json.loads(chatgpt_json.whole(tree))["update_time"] == 1_700_000_000.5
