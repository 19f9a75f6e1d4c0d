# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations as OpenAI's clients hold them: a list of turns, who speaks and the words. Pure.

A turn of the assistant is all that people see of it between two prompts, its messages joined by a blank line. What
tools put out is no turn. A client has what it was shown, and not always all of it: texts are compared without ChatGPT's
markers and most white space, and an answer that a client broke off is known by its beginning.

A tree is read in one walk, and each of its texts once, however many branches it has and wherever they leave it: trees
come from files that people upload. What hangs in a cycle, below no root, is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import groupby
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

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
S = TypeVar("S")


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
        now, self._held = _begun(self._held + piece)
        return now

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
        return Turn(turn.role, _solid(words))
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
    return [PlacedTurn(turn, node.id) for node, turn in _walk(alone, Turn("", ""), _Reading())]


def tree_hashes(tree: Conversation) -> Iterator[int]:
    """The hash, as `history_hashes` has it, of every path from the root that ends with an answer, and of every one to
    a first prompt, before any answer; those of equal paths more than once.
    """
    for _, path in _walk(tree, _Path(_CHAIN_START), _Hashing()):
        if path.role == "assistant" or (path.role == "user" and path.prompts == 1 and not path.has_answer):
            yield _number(path.chain)


def longest_match(tree: Conversation, turns: list[Turn]) -> Match | None:
    """The answer in this tree up to which it goes along with most of these (canonical) turns; None where it does with
    none. Only answers count that upstream is known to have. One that a client broke off is known by its beginning.
    """
    current = reversed(branches.branch(tree.nodes, branches.leaf(tree)))
    last = next((node.id for node in current if chatgpt_json.spoken(node) is not None), None)
    best: Match | None = None
    for node, way in _walk(tree, _Way("", 0, 0), _Matching(turns)):
        is_upstream = node.completeness is not Completeness.UNCONFIRMED and not node.is_absent_upstream
        if way.role == "assistant" and is_upstream and way.known and turns[way.known - 1].role == "assistant":
            match = Match(way.known, way.exact, ends_branch=node.id == last, node=node.id)
            if best is None or match[:3] >= best[:3]:  # of equals the later branch
                best = match
    return best


# ------------------------------------------------------------------------------------------------------------ helpers


def _replacement(match: re.Match[str]) -> str:
    return "" if match[1] is None else re.sub("[\ue200-\ue20f]", "", words_alone(match[1]))


def _begun(text: str) -> tuple[str, str]:
    """Of a text that goes on, what may be shown already, and the rest, in which a marker has not come to its end."""
    opened = text.rfind("\ue200")
    if opened < 0 or "\ue201" in text[opened:] or len(text) - opened - 1 > _LONGEST_MARKER:
        opened = len(text)
    return shown(text[:opened]), text[opened:]


def _is_blank(text: str) -> bool:
    return not canonical(Turn("system", text)).text


def _joined(texts: Iterable[str]) -> str:
    return _SEAM.join(words for text in texts if (words := shown(text)))


def _chained(chain: bytes, turn: Turn) -> bytes:
    if turn.role == "assistant" and not turn.text:
        return chain
    running = _chain_link(chain, turn.role)
    running.update(_bytes(turn.text))
    return running.digest()


def _chain_link(chain: bytes, role: str) -> blake2b:
    return blake2b(chain + _bytes(f"{role}\0"), digest_size=8)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _solid(text: str) -> str:
    """Without white space: what of an answer is compared, once it is as it is shown."""
    return "".join(text.split())


def _number(chain: bytes) -> int:
    return int.from_bytes(chain, signed=True)


# --------------------------------------------------------------------------------------------------------------- trees


class _Fold(Protocol[A, S]):
    """What is made of the turns on the way from a root: `A` of whole ones, `S` of an answer that may go on, None as
    long as it has said nothing. Both are shared by the branches that go out from there, and so never changed.
    """

    def prompt(self, before: A, turn: Turn) -> A | None:
        """With a turn that is not the assistant's. None: nobody need go further down."""

    def words(self, before: A, said: S | None, words: str) -> S | None:
        """With the next words of an answer as they are shown."""

    def answer(self, before: A, said: S | None, node: Node) -> A | None:
        """With an answer that ends with this node. None as above."""


class _Texts(NamedTuple):
    """The words of an answer, the last ones first."""

    text: str
    before: _Texts | None


class _Reading:
    """A fold that keeps the last turn as it is."""

    def prompt(self, before: Turn, turn: Turn) -> Turn:
        return turn

    def words(self, before: Turn, said: _Texts | None, words: str) -> _Texts:
        return _Texts(words, said)

    def answer(self, before: Turn, said: _Texts | None, node: Node) -> Turn:
        texts: list[str] = []
        while said is not None:
            texts.append(said.text)
            said = said.before
        return Turn("assistant", "".join(reversed(texts)))


class _Path(NamedTuple):
    """What is hashed of the way from the root, and who spoke last."""

    chain: bytes
    role: str = ""
    prompts: int = 0
    has_answer: bool = False


class _Hashing:
    """A fold that comes to the hash `history_hashes` gives."""

    def prompt(self, before: _Path, turn: Turn) -> _Path:
        chain = _chained(before.chain, canonical(turn))
        return _Path(chain, turn.role, before.prompts + (turn.role == "user"), before.has_answer)

    def words(self, before: _Path, said: blake2b | None, words: str) -> blake2b | None:
        if not (solid := _solid(words)):
            return said
        said = _chain_link(before.chain, "assistant") if said is None else said.copy()
        said.update(_bytes(solid))
        return said

    def answer(self, before: _Path, said: blake2b | None, node: Node) -> _Path:
        chain = before.chain if said is None else said.digest()
        return _Path(chain, "assistant", before.prompts, has_answer=True)


class _Way(NamedTuple):
    """How far a way from the root goes along with a history, as in `Match`, and who spoke last."""

    role: str
    known: int
    exact: int


class _Compared(NamedTuple):
    """An answer beside the one in the history."""

    length: int
    is_beginning: bool
    """The history's begins with it, or is it."""
    is_all: bool
    """It begins with the history's, or is it."""


class _Matching:
    """A fold that goes along with a history as far as that goes."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = turns

    def prompt(self, before: _Way, turn: Turn) -> _Way | None:
        is_known = before.known < len(self._turns) and self._turns[before.known] == canonical(turn)
        return _Way(turn.role, before.known + 1, before.exact + 1) if is_known else None

    def words(self, before: _Way, said: _Compared | None, words: str) -> _Compared | None:
        if not (solid := _solid(words)):
            return said
        length, is_beginning, is_all = said or _Compared(0, is_beginning=True, is_all=False)
        wanted = self._wanted(before)
        if wanted is not None and is_beginning:
            is_beginning = wanted.startswith(solid, length)
            # Cut only where the rest is the shorter one: a long history is not copied for each of a tree's words.
            left = len(wanted) - length
            is_all = left == len(solid) if is_beginning else left < len(solid) and solid.startswith(wanted[length:])
        return _Compared(length + len(solid), is_beginning, is_all)

    def answer(self, before: _Way, said: _Compared | None, node: Node) -> _Way | None:
        wanted = self._wanted(before)
        if said is None and wanted != "":  # an image, which this client has no place for
            return before._replace(role="assistant")
        if said is None or (said.is_beginning and said.is_all):
            return _Way("assistant", before.known + 1, before.exact + 1)
        # Of an answer that broke off here, or is still coming, a client may have more.
        is_more = node.completeness is Completeness.PARTIAL and said.is_beginning
        return _Way("assistant", before.known + 1, before.exact) if wanted and (said.is_all or is_more) else None

    def _wanted(self, way: _Way) -> str | None:
        """The words of the answer that comes next in the history; None where none does."""
        turn = self._turns[way.known] if way.known < len(self._turns) else None
        return None if turn is None or turn.role != "assistant" else turn.text


@dataclass(slots=True)
class _Answer(Generic[A, S]):
    """A turn of the assistant that ends with `node`, or goes on below it."""

    before: A
    """What came of the turns before this one."""
    node: Node
    said: S | None = None
    held: str = ""
    """The end of a message that was cut, as long as it may be half a marker."""
    cut: str | None = None
    """The node whose text was cut: an answer right below it goes on without a seam."""
    has_words: bool = False
    seam: str = ""
    """What belongs between the words so far and the next ones."""
    outcome: list[A | None] = field(default_factory=list)
    """What came of it, as soon as that is known."""

    def going_on(self, fold: _Fold[A, S], node: Node, said: chatgpt_json.Spoken) -> _Answer[A, S]:
        """The turn that this one becomes with what is said next."""
        longer = replace(self, node=node, cut=None, outcome=[])
        if said.role == "assistant":
            if self.cut is None or node.parent != self.cut:
                longer._end_message(fold)
            text, longer.held = longer.held + said.text, ""
            if said.is_cut:
                longer.cut = node.id
                now, longer.held = _begun(text)
            else:
                now = shown(text)
            longer._add(fold, now)
        return longer

    def ended(self, fold: _Fold[A, S]) -> A | None:
        """What comes of it where it ends here."""
        whole = replace(self)
        whole._end_message(fold)
        return fold.answer(whole.before, whole.said, whole.node)

    def _end_message(self, fold: _Fold[A, S]) -> None:
        self._add(fold, shown(self.held))
        self.held, self.seam = "", _SEAM if self.has_words else ""

    def _add(self, fold: _Fold[A, S], words: str) -> None:
        if words:
            self.said = fold.words(self.before, self.said, self.seam + words)
            self.has_words, self.seam = True, ""


def _walk(tree: Conversation, start: A, fold: _Fold[A, S]) -> Iterator[tuple[Node, A]]:
    """Every place in the tree at which a turn ends, each before those below it, with what the fold made of the turns up
    to it, from `start` on. Where that is None, the walk goes no further down.
    """
    children = branches.children(tree.nodes)
    roots = [each.id for each in tree.nodes.values() if each.parent not in tree.nodes or each.parent == each.id]
    stack: list[tuple[str, A, _Answer[A, S] | None]] = [(root, start, None) for root in reversed(roots)]
    while stack:
        key, so_far, answer = stack.pop()
        node = tree.nodes[key]
        said = chatgpt_json.spoken(node)
        is_prompt = said is not None and (said.role == "user" or (said.role == "system" and not _is_blank(said.text)))
        if said is not None and said.role not in {"user", "system"}:
            answer = (answer or _Answer(so_far, node)).going_on(fold, node, said)
        if answer is not None and (is_prompt or not children[key]):
            if not answer.outcome:
                answer.outcome.append(answer.ended(fold))
                if answer.outcome[0] is not None:
                    yield answer.node, answer.outcome[0]
            if answer.outcome[0] is None:
                continue
            so_far, answer = answer.outcome[0], None
        if said is not None and is_prompt:
            after = fold.prompt(so_far, Turn(said.role, said.text))
            if after is None:
                continue
            yield node, after
            so_far = after
        stack.extend((child, so_far, answer) for child in reversed(children[key]))
