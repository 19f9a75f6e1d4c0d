# SPDX-License-Identifier: GPL-2.0-or-later
"""What exported files are called: readable, and safe wherever they may end up."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.archive import names
from chatgpt_rest.clock import SECOND
from chatgpt_rest.model import Conversation
from tests.house import NOON

ID = "66f1a2b3-0000-4000-8000-000000000000"


def tree(title: str | None, *, identifier: str = ID, time: int | None = NOON) -> Conversation:
    """A conversation with nothing in it."""
    return Conversation(identifier, title, time, None, None, {})


def called(title: str | None) -> str:
    """What its Markdown file is called, without date and mark."""
    name = names.file_name(tree(title), ".md")
    match = re.fullmatch(r"2026-11-18 (.*) \(66f1a2b3\)\.md", name, re.DOTALL)
    assert match is not None, name
    return match[1]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("A walk in May", "A walk in May"),
        (None, "New chat"),
        (" \n\t", "New chat"),
        ("...", "New chat"),
        ('a/b\\c:d*e?f"g<h>i|j', "a b c d e f g h i j"),
        ("../../etc/passwd", "etc passwd"),
        ("two\nlines\x00\x1b[31m", "two lines[31m"),
        ("report.", "report"),
        (".hidden", "hidden"),
        ("CON", "CON"),
        ("evil\u202egnp.exe", "evilgnp.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("cafe\u0301", "café"),
        ("\ud800half", "half"),
        ("private \ue000 use", "private use"),
        ("unassigned \U000e0fff", "unassigned"),
        ("Grüße, 世界 🌍", "Grüße, 世界 🌍"),
    ],
)
def test_a_title_becomes_a_name(title: str | None, name: str) -> None:
    """What a file system or a terminal would stumble over is left out; words stay words."""
    assert called(title) == name


def test_a_name_begins_with_what_no_title_chooses() -> None:
    """A date in UTC, or "undated": never a dot, a dash or a device of Windows."""
    assert names.file_name(tree("CON.x", time=None), ".md") == "undated CON.x (66f1a2b3).md"
    assert names.file_name(tree("-rf", time=0), ".html") == "1970-01-01 -rf (66f1a2b3).html"
    late = NOON - NOON % (86_400 * SECOND) + 86_399 * SECOND
    assert names.file_name(tree("x", time=late), ".md").startswith("2026-11-18 ")


def test_without_a_creation_the_update_dates_it() -> None:
    """Where ChatGPT gave only one of the two times, it serves as both."""
    updated = Conversation(ID, "x", None, 0, None, {})
    assert names.file_name(updated, ".md") == "1970-01-01 x (66f1a2b3).md"


def test_a_long_title_is_cut_at_a_word() -> None:
    """Neither a word nor a character is cut in two, unless a word is all there is."""
    assert called("word " * 100) == ("word " * 19).strip()
    assert called("世" * 100) == "世" * 32
    assert called("a" * 200) == "a" * 96


@given(st.text(st.characters(codec=None)), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", fullmatch=True))
def test_any_name_is_safe(title: str, identifier: str) -> None:
    """Whatever the title and the id: one part of a path, short, NFC, printable, in UTF-8, and never a reserved one."""
    for mark in names.marks(identifier):
        name = names.file_name(tree(title, identifier=identifier), ".html", mark=mark)
        assert len(name.encode()) <= 143
        assert unicodedata.normalize("NFC", name) == name
        assert not set(name) & set('<>:"/\\|?*')
        assert not any(unicodedata.category(each) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for each in name)
        assert name == name.strip(" .")
        assert "  " not in name


def test_marks_tell_ids_apart() -> None:
    """The first is a person's, the second is of all of the id: letters in the other case make another one."""
    assert names.marks(ID)[0] == "66f1a2b3"
    assert names.marks("Same")[1] != names.marks("same")[1]
    assert names.folded("Straße.md") == names.folded("STRASSE.MD")


@pytest.mark.parametrize(
    ("media_type", "name", "called"),
    [
        ("image/png", "holiday.exe", "file-a.png"),
        ("image/jpeg", None, "file-a.jpg"),
        ("text/plain", "table.CSV", "file-a.csv"),
        ("text/plain", None, "file-a.txt"),
        ("application/octet-stream", "drawing.psd", "file-a.psd"),
        ("application/octet-stream", "no suffix./", "file-a.bin"),
        ("never/heard", "x.tar", "file-a.bin"),
    ],
)
def test_an_asset_is_called_by_its_id_and_type(media_type: str, name: str | None, called: str) -> None:
    """Its own name counts only where its bytes do not tell what it is."""
    assert names.asset_name("file-a", media_type, name) == called


def test_an_asset_stays_in_its_folder() -> None:
    """An id that is no id leads nowhere."""
    assert names.asset_name("../x/\0y", "image/png", None) == "___x__y.png"
