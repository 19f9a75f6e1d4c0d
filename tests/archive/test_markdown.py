# SPDX-License-Identifier: GPL-2.0-or-later
"""A conversation as Markdown: front matter that reads back, words as they were written, nothing that breaks it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest import chatgpt_json, rendering
from chatgpt_rest.archive import markdown
from chatgpt_rest.clock import SECOND
from chatgpt_rest.model import Completeness, Conversation
from tests.rich import ANSWER, CITE, rich_conversation, rich_files
from tests.shapes import conversation, message, odd_conversations, words


def rendered(*path: dict[str, Any]) -> str:
    """The file of a conversation with one branch."""
    return markdown.render(conversation(*path), attached={})


def front_matter(text: str) -> dict[str, str | None]:
    """The front matter, read as YAML reads quoted text."""
    head, _, _ = text.removeprefix("---\n").partition("\n---\n")
    members: dict[str, str | None] = {}
    for line in head.split("\n"):
        name, value = line.split(": ", 1)
        members[name] = None if value == "null" else _unquoted(value)
    return members


def _unquoted(value: str) -> str:
    assert re.fullmatch(r'"(?:[^"\\]|\\["\\]|\\u[0-9A-F]{4})*"', value)
    # What YAML 1.1 calls printable, and no line breaks: any parser of it takes these as they are.
    assert all(_is_printable(ord(character)) for character in value)
    return re.sub(r"\\(?:u(....)|(.))", lambda match: chr(int(match[1], 16)) if match[1] else match[2], value[1:-1])


def _is_printable(code: int) -> bool:
    plain = 0x20 <= code <= 0x7E or 0xA0 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000
    return plain and code not in (0x2028, 0x2029, 0xFEFF)


# -------------------------------------------------------------------------------------------------------- front matter


def test_the_front_matter_says_what_it_is() -> None:
    """Id, title, times with zone, model, project and address stand first."""
    assert front_matter(markdown.render(rich_conversation(), attached={})) == {
        "id": "conversation",
        "title": 'Heat: "spread" 🔥\nand more',
        "create_time": "2023-05-28T17:13:08.233528+00:00",
        "update_time": "2023-05-28T17:13:08.233528+00:00",
        "model": "gpt-5",
        "project": "g-p-1",
        "url": "https://chatgpt.com/c/conversation",
        "source": "chatgpt",
    }


def test_what_is_not_known_is_null() -> None:
    """A conversation with nothing but an id has all the members all the same."""
    told = front_matter(markdown.render(Conversation("c", None, None, None, None, {}), attached={}))
    assert [name for name, value in told.items() if value is None] == [
        "title",
        "create_time",
        "update_time",
        "model",
        "project",
    ]


@given(
    words
    | st.text(st.characters(max_codepoint=0xA0))
    | st.text(st.sampled_from('\ufeff\u2028\x85\ufffe\U0001f525"\\:#'))
)
def test_any_title_reads_back(title: str) -> None:
    """Quotes, line breaks, emoji and control characters come back; half a character becomes U+FFFD."""
    told = front_matter(markdown.render(Conversation("c", title, None, None, None, {}), attached={}))
    assert told["title"] == chatgpt_json.printable(title)


# ------------------------------------------------------------------------------------------------------------ messages


def test_every_message_has_its_heading() -> None:
    """Role, model and time stand above the words; the title heads them all."""
    text = markdown.render(rich_conversation(), attached={})
    assert re.findall("^#.*", text, re.MULTILINE)[:4] == [
        '# Heat: "spread" 🔥 and more',
        "## User · 2023-05-28 17:13:08 UTC",
        "## Assistant · gpt-5 · 2023-05-28 17:13:08 UTC",
        "## Tool python · 2023-05-28 17:13:08 UTC",
    ]


def test_words_stand_as_they_were_written() -> None:
    """Prompts, code, tables and formulas are not touched."""
    prompt = "  *x* # <b>\n\n\n    code\n\t$x$ | [a](b) \\( \\) &amp;"
    assert f"\n\n{prompt}\n" in rendered(message(prompt, role="user"))
    body = ANSWER.replace(CITE, "[^1]").partition(":::")[0].rstrip()
    assert body in markdown.render(rich_conversation(), attached={})


def test_nothing_in_it_steers_a_terminal() -> None:
    """Control characters of titles, words and code show as what is no character; line breaks and tabs stay."""
    controls = "".join(map(chr, (*range(32), *range(127, 160))))
    path = (message(f"a{controls}b\r\nc", role="user"), message(content={"content_type": "code", "text": controls}))
    text = markdown.render(replace(conversation(*path), title=f"t{controls}"), attached={})
    assert not set(controls) - {"\n", "\t"} & set(text)
    assert "\ufffd" in text
    assert "b\nc\n" in text


def test_citations_are_footnotes() -> None:
    """Each source is defined once, below the message that cites it."""
    text = markdown.render(rich_conversation(), attached={})
    assert "Heat spreads[^1]:" in text
    assert text.count("\n[^1]: [On \\[heat\\]](https://a.example/heat)\n") == 1


def test_a_block_of_code_cannot_be_ended_by_what_it_holds() -> None:
    """Its fence is longer than any run of backticks in it."""
    code = {"content_type": "code", "language": "c ``` x", "text": "a\n````\n# b\n"}
    assert rendered(message(content=code)).endswith("\n`````\na\n````\n# b\n`````\n")


def test_an_answer_that_broke_off_in_code_swallows_nothing() -> None:
    """An open fence is closed before the next heading."""
    text = rendered(message("```python\nx = 1"), message("Go on", role="user"))
    assert "```python\nx = 1\n```\n\n## User" in text
    assert "<h2>User" in rendering.render(text)


def test_files_are_linked_or_named(tmp_path: Path) -> None:
    """Pictures are shown, other files linked, and what is not there is named."""
    tree = rich_conversation()
    files = {key: replace(file, link="assets/a b(1).bin") for key, file in rich_files(tmp_path).items()}
    text = markdown.render(tree, attached=files)
    assert "![plot.png](assets/a%20b%281%29.bin)" in text
    assert "[Paper (1).pdf](assets/a%20b%281%29.bin)" in text
    assert "*File, not in this archive: gone.xlsx*" in text
    assert "*Image, not in this archive: file\\_pic*" in markdown.render(tree, attached={})


def test_reasoning_is_folded() -> None:
    """Thoughts stand in a fold under their recap, before the answer."""
    text = markdown.render(rich_conversation(), attached={})
    fold = "<details>\n<summary>Thought for 7s</summary>\n\n**Recall**\n\n$u_t$\n\n</details>\n\nHeat spreads"
    assert fold in text


def test_every_passage_is_there() -> None:
    """Documents, output, quotes, speech and what nobody knows are written down, each in its way."""
    text = markdown.render(rich_conversation(), attached={})
    for expected in (
        "<summary>Document: Results</summary>\n\nDear Ada\n\n</details>",
        "<summary>Document: tool</summary>\n\n```python\nx = 1\n```\n\n</details>",
        "```text\n1 < 2\n```",
        "> Read\n> there.\n>\n> — [A page](https://a.example/q)",
        "*Spoken:* Hm.",
        "<summary>Content of an unknown kind: computer_output</summary>\n\n````json\n",
    ):
        assert expected in text


def test_other_branches_are_mentioned() -> None:
    """A reader learns where there were other answers."""
    text = markdown.render(rich_conversation(), attached={})
    assert text.count("*Version 1 of 2; this file holds only this one.*") == 1


def test_an_incomplete_message_says_so() -> None:
    """An answer that broke off is marked."""
    tree = conversation(message("Hal"))
    partial = replace(tree.nodes["n0"], completeness=Completeness.PARTIAL)
    assert markdown.render(replace(tree, nodes={"n0": partial}), attached={}).endswith(
        "Hal\n\n*This message is incomplete.*\n"
    )


def test_sources_without_a_place_are_listed() -> None:
    """What a message cites nowhere stands below it."""
    references = [{"title": "A", "url": "https://a.example/"}, {"title": "B", "url": "javascript:x"}]
    text = rendered(message("x", metadata={"content_references": references}))
    assert text.endswith("x\n\nSources:\n\n- [A](https://a.example/)\n- B\n")


@pytest.mark.parametrize("title", [None, "", " \n "])
def test_a_conversation_without_a_title_has_a_heading(title: str | None) -> None:
    """It is called what ChatGPT calls it."""
    assert "\n# New chat\n" in markdown.render(Conversation("c", title, 5 * SECOND, None, None, {}), attached={})


def test_the_same_conversation_gives_the_same_bytes(tmp_path: Path) -> None:
    """Nothing but the conversation and its files decides what is written."""
    files = rich_files(tmp_path)
    backwards = dict(reversed(files.items()))
    first, second = (markdown.render(rich_conversation(), attached=each) for each in (files, backwards))
    assert first == second


@given(odd_conversations)
def test_any_conversation_can_be_written(value: dict[str, Any]) -> None:
    """Whatever passes for a conversation becomes a file of UTF-8 that ends its last line."""
    try:
        tree = chatgpt_json.conversation(value)
    except ValueError:
        return
    text = markdown.render(tree, attached={})
    text.encode()
    assert text.startswith("---\nid: ")
    assert text.endswith("\n")
