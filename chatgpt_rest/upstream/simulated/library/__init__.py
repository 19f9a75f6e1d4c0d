# SPDX-License-Identifier: GPL-2.0-or-later
"""The conversations that alice and bob have from the start: believable, and the same in every run."""

from __future__ import annotations

from chatgpt_rest.upstream.simulated.accounts import Account
from chatgpt_rest.upstream.simulated.library import branches, oddities, texts, tools
from chatgpt_rest.upstream.simulated.library.shelf import Shelf


def fill(alice: Account, bob: Account, *, now: float) -> None:
    """Give both their conversations, their times counted back from `now`."""
    shelf = Shelf(alice, now=now)
    for part in (oddities, tools, branches):
        part.put_on(shelf)
    texts.put_on(shelf, folder="alice")
    shelf.close()
    other = Shelf(bob, now=now)
    texts.put_on(other, folder="bob")
    other.close()
