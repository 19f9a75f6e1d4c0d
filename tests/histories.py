# SPDX-License-Identifier: GPL-2.0-or-later
"""Generated histories of one account: what its owner does upstream and here, and what goes wrong on the way. What each
step does is told in `tests/world.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

from hypothesis import strategies as st

from tests.direct import FAULTS, LIES

T = TypeVar("T")

Talk = Literal["begin", "turn", "regenerate", "edit", "switch", "prune"]
"""What a person says on ChatGPT's own page. `switch` goes to another branch, `prune` takes one away."""
Order = Literal["rename", "stir", "archive", "unarchive", "put", "dissolve", "delete"]
"""How they keep order there. `stir` gives all of them new titles, `put` moves one into a project, `dissolve` deletes
its project with all that is in there.
"""
Misfit = Literal[
    "fail",  # always a 500
    "hide",  # a 404 that is not true
    "shut",  # the 404 that says "inaccessible"
]
"""How a conversation is in bad order upstream, until it is mended."""
Use = Literal[
    "name",  # a title is set, not to be pushed yet
    "push",
    "retitle",  # this and the next two go upstream first
    "shelve",
    "remove",
    "bury",  # deletes here alone
    "undelete",
    "purge",
    "delete all",
    "ask",
    "open",  # asks in a new conversation
]
"""What a person does here."""
Answering = Literal[
    "grow",
    "end",
    "break",
    "doubt",  # it is uncertain whether upstream has the prompt, and it has
    "lose",  # the same, and it has not
    "refuse",
]
"""How an ask goes on."""


@dataclass(frozen=True)
class Do:
    """One of these, to the conversation or the ask of this number, counted round."""

    what: Talk | Order | Misfit | Use | Answering
    which: int = 0


@dataclass(frozen=True)
class Read:
    """Somebody reads the conversation of this number."""

    which: int


@dataclass(frozen=True)
class Mend:
    """Nothing is in bad order any more, and there is a token that upstream accepts."""


@dataclass(frozen=True)
class Skew:
    """From now on upstream's clock is off by this."""

    seconds: int


@dataclass(frozen=True)
class Restart:
    """The process ends, and another one opens the file, on a machine whose clock was set meanwhile."""

    jump_seconds: int = 0


@dataclass(frozen=True)
class Crash:
    """The process ends in the middle of a request."""


@dataclass(frozen=True)
class Pass:
    """After a while sync goes on. Of its requests, counted from 0, some fail, and during some things happen: before
    upstream makes its answer or, where the key says True, while the answer is on its way.
    """

    after_seconds: int = 0
    faults: Mapping[int, str] = field(default_factory=dict)
    meanwhile: Mapping[tuple[int, bool], Do | Skew | Crash] = field(default_factory=dict)


Step = Do | Read | Mend | Skew | Restart | Pass


def _often(*choices: tuple[int, st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """One of these, each as often as its number says."""
    return st.sampled_from([each for number, each in choices for _ in range(number)]).flatmap(lambda each: each)


def _doing(*what: str) -> st.SearchStrategy[Step]:
    return st.builds(Do, st.sampled_from(what), _which)


_which = st.integers(0, 11)
_browse = _doing(*get_args(Talk), *get_args(Order))
_skew: st.SearchStrategy[Step] = st.sampled_from([0, 90, -90, 7_200, -7_200, 259_200, -259_200]).map(Skew)
_change = _often(
    (9, _browse),
    (4, _doing(*get_args(Use))),
    (4, _doing(*get_args(Answering))),
    (1, _doing(*get_args(Misfit))),
    (1, _skew),
)
_between: st.SearchStrategy[Step] = st.sampled_from([Mend(), Restart(), Restart(3_000), Restart(-3_000)])
_between = _often((1, _between), (1, _which.map(Read)))
_while = st.sampled_from([1_000, 1_000, 25_000, 90_000, 700_000])  # the list, all lists, what is absent, a sweep: due
_requests = st.sampled_from([0, 1, 1, 2, 2, 3, 4, 6, 9])
_moments = st.tuples(_requests, st.booleans())
_faults = _often((2, st.sampled_from(LIES)), (1, st.just("slim")), (3, st.sampled_from(FAULTS)))
_pass = st.builds(
    Pass,
    _while,
    st.dictionaries(_requests, _faults, max_size=3),
    st.dictionaries(_moments, _often((7, _change), (1, st.builds(Crash))), max_size=4),
)
_round = st.tuples(
    st.lists(_often((6, _change), (1, _between)), min_size=1, max_size=4),
    _often((1, st.builds(Pass, _while)), (3, _pass)),
)
histories: st.SearchStrategy[list[Step]] = st.lists(_round, min_size=2, max_size=8).map(
    lambda rounds: [step for changes, one_pass in rounds for step in (*changes, one_pass)]
)
_busy_pass = st.builds(Pass, _while, meanwhile=st.dictionaries(_moments, _browse, max_size=4))
peaceful_histories = st.lists(_often((2, _browse), (1, st.just(Do("stir"))), (2, _busy_pass)), max_size=6)
"""In which nothing fails, no clock is off, and all that happens is upstream's."""
