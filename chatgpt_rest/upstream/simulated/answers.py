# SPDX-License-Identifier: GPL-2.0-or-later
"""The answers of the simulated model: made from the prompt alone, so that a test can know them beforehand."""

from __future__ import annotations

import re
import zlib
from typing import Final

CUT_MARKER: Final = re.compile(r"\[\[max_tokens(?::(\d+))?\]\]")
"""In a prompt: the answer is cut by the limit of tokens, once or as many times as it says (`[[max_tokens:2]]`)."""

LENGTH_MARKER: Final = re.compile(r"\[\[words:(\d{1,6})\]\]")
"""In a prompt: so many words more (`[[words:20000]]`), for clients that are to be tried with a long answer."""

SEPARATORS: Final = "\u2028\u2029\u0085"
"""Line separators that JSON may hold raw and that careless readers of lines split at."""

MOST_EVENTS: Final = 40
WORDS_PER_EVENT: Final = 4
LONGEST_QUOTE: Final = 160

KNOWN: Final = {
    "Which planet has the most moons?": (
        "**Saturn.** It has 274 confirmed moons, more than all the other planets together: 128 of them were announced"
        " at once, in March 2025. Jupiter comes second with 97.\n\nMost are lumps of rock and ice a few kilometres"
        " across, caught long ago and still going round far out, often the wrong way. The one worth a visit is Titan:"
        " it is larger than Mercury, and it rains methane there."
    )
}
"""What the demo asks, answered as one would hope."""

OPENINGS: Final = (
    "Good question. Here is the short version:",
    "Let's take this one step at a time.",
    "There are a few ways to look at this; the simplest is usually the best.",
    "Happy to help. The gist of it:",
)

ADVICE: Final = (
    "**Start small.** A first version that works tells you more than a plan that is complete.",
    "**Write it down.** What seems obvious today is a riddle in three months.",
    "**Measure before you change anything**, and change one thing at a time.",
    "**Ask someone who has done it.** Ten minutes of their time often save a week of yours.",
    "**Leave some slack.** Things take longer than they look, even when you account for that.",
    "**Keep what works.** Not everything old needs to be replaced.",
    "**Read the error message twice.** The second time it usually says what is wrong.",
)

STEPS: Final = """
1. Begin with the part you understand best and set it up properly.
2. Compare what you get with what you expected, and note every difference.
3. Repeat until nothing surprises you any more; the remaining questions are the interesting ones.
"""


def answer_to(prompt: str) -> str:
    """The whole answer to a prompt, in Markdown: an opening, the prompt quoted, three pieces of advice."""
    if prompt in KNOWN:
        return KNOWN[prompt]
    seed = zlib.crc32(prompt.encode("utf-8", "surrogatepass"))
    advice = [ADVICE[(seed // 7 + step * 3) % len(ADVICE)] for step in range(3)]
    quote = " ".join(LENGTH_MARKER.sub("", CUT_MARKER.sub("", prompt)).split())
    if len(quote) > LONGEST_QUOTE:
        quote = quote[:LONGEST_QUOTE].rstrip() + "…"
    points = "\n".join(f"- {point}" for point in advice)
    answer = f"{OPENINGS[seed % len(OPENINGS)]}\n\n> {quote}\n\n{points}\n\nWould you like me to go into one of these?"
    marker = LENGTH_MARKER.search(prompt)
    return answer if marker is None else f"{answer}\n\n{_filler(int(marker[1]))}"


def _filler(words: int) -> str:
    """So many words, in paragraphs."""
    sentence = " ".join(ADVICE).replace("**", "").split()
    paragraphs = [sentence[: min(len(sentence), words - start)] for start in range(0, words, len(sentence))]
    return "\n\n".join(" ".join(paragraph) for paragraph in paragraphs)


def cuts_in(prompt: str) -> int:
    """How many times the prompt asks for its answer to be cut."""
    marker = CUT_MARKER.search(prompt)
    return int(marker[1] or 1) if marker else 0


def segments(prompt: str, *, cuts: int) -> list[str]:
    """The answer in the pieces in which it comes: joined without anything between they are the whole.

    The first seam lies between newlines, which careless joining loses; later ones lie inside a word.
    """
    if cuts == 0:
        return [answer_to(prompt)]
    rest = STEPS
    pieces = [f"{answer_to(prompt)}\n\nStep by step:\n"]
    for left in range(cuts, 1, -1):
        seam = _inside_a_word(rest, len(rest) // left)
        pieces.append(rest[:seam])
        rest = rest[seam:]
    return [*pieces, rest]


def growth(text: str) -> list[str]:
    """The text as it grows, event by event; the last is the whole."""
    words = re.findall(r"\S+\s*|\s+", text)
    step = max(WORDS_PER_EVENT, -(-len(words) // MOST_EVENTS))
    return ["".join(words[: end + step]) for end in range(0, len(words), step)] or [""]


def title_for(prompt: str) -> str:
    """The title that gen_title gives a conversation which begins with this prompt."""
    words = CUT_MARKER.sub("", prompt).split()
    title = " ".join(words[:6]).rstrip(".,:;!?")
    return (title[:1].upper() + title[1:])[:60] or "New conversation"


def _inside_a_word(text: str, near: int) -> int:
    return next(
        (at for at in range(max(1, near), len(text)) if text[at - 1].isalpha() and text[at].isalpha()), len(text)
    )
