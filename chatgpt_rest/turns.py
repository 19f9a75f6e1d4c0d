# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations as OpenAI's clients hold them: a list of turns, who speaks and the words. Pure.

A turn of the assistant is all that people see of it between two prompts, its messages joined by a blank line. What
tools put out is no turn. A client has what it was shown, and not always all of it: texts are compared without ChatGPT's
markers and most white space, and an answer that a client broke off is known by its beginning.

A tree is read in one walk, however many branches it has. What hangs in a cycle, below no root, is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import groupby
from typing import Any, Final, Generic, NamedTuple, TypeVar

from chatgpt_rest import branches, chatgpt_json
from chatgpt_rest.chatgpt_markers import words_alone
from chatgpt_rest.model import Completeness, Conversation, Node, Turn

_LONGEST_MARKER: Final = 4000  # characters: what has no end by then is none
_MARKER: Final = re.compile(
    f"\ue200([^\ue200\ue201]{{0,{_LONGEST_MARKER}}})\ue201"
    # One without its end: as far as its arguments look like some. Never longer than the above.
    "|\ue200[a-z_]{1,20}(?:(?:\ue202[\\w-]{0,64}){1,40}|(?=\ue200|\\Z))"
    "|[\ue200-\ue20f]"
)
_SEAM: Final = "\n\n"
_CHAIN_START: Final = b""

A = TypeVar("A")


class PlacedTurn(NamedTuple):
    """A turn, and the node of a tree that it ends with."""

    turn: Turn
    node: str


class Match(NamedTuple):
    """How far a tree goes along with a history: its first `known` turns (as `canonical_turns` counts) end at `node`,
    an answer. Of two that go equally far the greater one is the better.
    """

    known: int
    exact: int
    """Of them, those that are all that is known, and not just its beginning."""
    ends_branch: bool
    """The current branch ends there."""
    node: str


# ---------------------------------------------------------------------------------------------------------- the words


def shown(text: str) -> str:
    """`text` as /v1 shows it: ChatGPT's private-use markers give way to the words that they bring themselves (a name, a
    link), mostly none.
    """
    return text if text.isascii() else _MARKER.sub(_replacement, text)


class ShownText:
    """`shown` for a text that is still coming: what `add` gives, and `rest` in the end, add up to the same."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, piece: str) -> str:
        """What may be shown now that `piece` has come. A marker is held back until its end is here."""
        text = self._held + piece
        opened = text.rfind("\ue200")
        if opened < 0 or "\ue201" in text[opened:] or len(text) - opened - 1 > _LONGEST_MARKER:
            opened = len(text)
        self._held = text[opened:]
        return shown(text[:opened])

    def rest(self) -> str:
        """What was held back, now that nothing more comes."""
        held, self._held = self._held, ""
        return shown(held)


def canonical(turn: Turn) -> Turn:
    """What of a turn is compared: what is shown, with one kind of line end and no white space around it; of answers,
    which nobody types and many programs tidy up, no white space at all.
    """
    words = shown(turn.text)
    if turn.role == "assistant":
        return Turn(turn.role, "".join(words.split()))
    return Turn(turn.role, words.replace("\r\n", "\n").replace("\r", "\n").strip())


def answer_text(messages: Iterable[Mapping[str, Any]]) -> str:
    """One turn of the assistant, of the objects that `chatgpt_json.messages` gives: what /v1 gives as `content`."""
    return _joined(each["message"] for each in messages if each["author"]["role"] == "assistant")


# ---------------------------------------------------------------------------------------------------------- histories


def canonical_turns(turns: Sequence[Turn]) -> list[tuple[Turn, int]]:
    """A client's history as trees are read, each turn with the number of messages of `turns` up to the next one.

    Several messages of the assistant in a row are one turn, and system messages without words are none.
    """
    numbered = ((number, canonical(turn)) for number, turn in enumerate(turns))
    said = [(number, turn) for number, turn in numbered if turn.role != "system" or turn.text]
    grouped = groupby(said, key=lambda each: "assistant" if each[1].role == "assistant" else each[0])
    groups = [list(group) for _, group in grouped]
    ends = [*(group[0][0] for group in groups[1:]), len(turns)]
    return [
        (Turn(group[0][1].role, "".join(turn.text for _, turn in group)), end)
        for group, end in zip(groups, ends, strict=False)
    ]


def history_hashes(turns: Iterable[Turn]) -> list[int]:
    """A hash of each beginning of these (canonical) turns: of the first one, the first two, …; 64 bits, signed, as
    SQLite holds integers. Answers without words, which some clients drop, change nothing.
    """
    hashes: list[int] = []
    chain = _CHAIN_START
    for turn in turns:
        chain = _chained(chain, turn)
        hashes.append(_number(chain))
    return hashes


def path_turns(tree: Conversation, end: str) -> list[PlacedTurn]:
    """The turns of the branch that ends at `end`, as a client would hold them, prompts and a client's system messages
    in the words they were sent with. Where the branch goes on, the last answer may be half of one.
    """
    path = branches.branch(tree.nodes, end)
    # The first one is a root here, even where it lies in a cycle.
    alone = replace(
        tree, nodes={node.id: node for node in [*(replace(each, parent=None) for each in path[:1]), *path[1:]]}
    )
    return [PlacedTurn(turn, node.id) for turn, node, _ in _walk(alone, (), lambda *_: ())]


def tree_hashes(tree: Conversation) -> Iterator[int]:
    """The hash, as `history_hashes` has it, of every path from the root that ends with an answer, and of every one to
    a first prompt, before any answer; those of equal paths more than once.
    """
    for turn, _, path in _walk(tree, _Path(_CHAIN_START), _hashed):
        if turn.role == "assistant" or (turn.role == "user" and path.prompts == 1 and not path.has_answer):
            yield _number(path.chain)


def longest_match(tree: Conversation, turns: list[Turn]) -> Match | None:
    """The answer in this tree up to which it goes along with most of these (canonical) turns; None where it does with
    none. Only answers count that upstream is known to have. One that a client broke off is known by its beginning.
    """
    current = reversed(branches.branch(tree.nodes, branches.leaf(tree)))
    last = next((node.id for node in current if chatgpt_json.spoken(node) is not None), None)
    best: Match | None = None

    def step(so_far: tuple[int, int], turn: Turn, node: Node) -> tuple[int, int] | None:
        known, exact = so_far
        turn = canonical(turn)
        if turns[known : known + 1] == [turn]:
            return known + 1, exact + 1
        if turn.role == "assistant" and not turn.text:  # an image, which this client has no place for
            return so_far
        if known == len(turns) or turn.role != "assistant" or turns[known].role != "assistant":
            return None
        words, wanted = turn.text, turns[known].text
        # Of an answer that broke off here, or is still coming, a client may have more.
        is_more = node.completeness is Completeness.PARTIAL and wanted.startswith(words)
        return (known + 1, exact) if wanted and (words.startswith(wanted) or is_more) else None

    for turn, node, (known, exact) in _walk(tree, (0, 0), step):
        is_upstream = node.completeness is not Completeness.UNCONFIRMED and not node.is_absent_upstream
        if turn.role == "assistant" and is_upstream and known and turns[known - 1].role == "assistant":
            match = Match(known, exact, ends_branch=node.id == last, node=node.id)
            if best is None or match[:3] >= best[:3]:  # of equals the later branch
                best = match
    return best


# ------------------------------------------------------------------------------------------------------------ helpers


def _replacement(match: re.Match[str]) -> str:
    return "" if match[1] is None else re.sub("[\ue200-\ue20f]", "", words_alone(match[1]))


def _is_blank(text: str) -> bool:
    return not canonical(Turn("system", text)).text


def _joined(texts: Iterable[str]) -> str:
    return _SEAM.join(words for text in texts if (words := shown(text)))


def _chained(chain: bytes, turn: Turn) -> bytes:
    if turn.role == "assistant" and not turn.text:
        return chain
    words = f"{turn.role}\0{turn.text}".encode("utf-8", "surrogatepass")
    return blake2b(chain + words, digest_size=8).digest()


def _number(chain: bytes) -> int:
    return int.from_bytes(chain, signed=True)


class _Path(NamedTuple):
    """What is hashed of the way from the root."""

    chain: bytes
    prompts: int = 0
    has_answer: bool = False


def _hashed(path: _Path, turn: Turn, _: Node) -> _Path:
    chain = _chained(path.chain, canonical(turn))
    return _Path(chain, path.prompts + (turn.role == "user"), path.has_answer or turn.role == "assistant")


@dataclass(slots=True)
class _Answer(Generic[A]):
    """A turn of the assistant that ends with `node`, or goes on below it."""

    before: A
    """What came of the turns before this one."""
    node: Node
    texts: _Texts | None
    cut: str | None
    """The node whose text was cut: an answer right below it goes on without a seam."""
    outcome: list[A | None] = field(default_factory=list)
    """What came of it, as soon as that is known."""

    @classmethod
    def going_on(cls, answer: _Answer[A] | None, before: A, node: Node, said: chatgpt_json.Spoken) -> _Answer[A]:
        """The turn that `answer` becomes with what is said next; None begins one, after `before`."""
        texts, cut = (None, None) if answer is None else (answer.texts, answer.cut)
        if answer is not None:
            before = answer.before
        is_assistant = said.role == "assistant"
        if is_assistant:
            texts = _Texts(said.text, texts, goes_on=cut is not None and node.parent == cut)
        return cls(before, node, texts, node.id if is_assistant and said.is_cut else None)

    def turn(self) -> Turn:
        words: list[str] = []
        each, rest = self.texts, ""
        while each is not None:
            rest = each.text + rest
            if not each.goes_on:
                words.append(rest)
                rest = ""
            each = each.before
        return Turn("assistant", _joined(reversed(words)))


class _Texts(NamedTuple):
    """The texts of a turn, the last one first: branches share what they have in common."""

    text: str
    before: _Texts | None
    goes_on: bool


def _walk(tree: Conversation, start: A, step: Callable[[A, Turn, Node], A | None]) -> Iterator[tuple[Turn, Node, A]]:
    """Every place in the tree at which a turn ends, each before those below it, with what `step` made of the turns up
    to it, from `start` on. Where `step` gives None, the walk goes no further down.
    """
    children = branches.children(tree.nodes)
    roots = [each.id for each in tree.nodes.values() if each.parent not in tree.nodes or each.parent == each.id]
    stack: list[tuple[str, A, _Answer[A] | None]] = [(root, start, None) for root in reversed(roots)]
    while stack:
        key, so_far, answer = stack.pop()
        node = tree.nodes[key]
        said = chatgpt_json.spoken(node)
        is_prompt = said is not None and (said.role == "user" or (said.role == "system" and not _is_blank(said.text)))
        if said is not None and said.role not in {"user", "system"}:
            answer = _Answer.going_on(answer, so_far, node, said)
        if answer is not None and (is_prompt or not children[key]):
            if not answer.outcome:
                turn = answer.turn()
                answer.outcome.append(step(answer.before, turn, answer.node))
                if answer.outcome[0] is not None:
                    yield turn, answer.node, answer.outcome[0]
            if answer.outcome[0] is None:
                continue
            so_far, answer = answer.outcome[0], None
        if said is not None and is_prompt:
            turn = Turn(said.role, said.text)
            after = step(so_far, turn, node)
            if after is None:
                continue
            yield turn, node, after
            so_far = after
        stack.extend((child, so_far, answer) for child in reversed(children[key]))
