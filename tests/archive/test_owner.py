# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose an export is, where a command brings it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatgpt_rest.archive.owner import owner_of
from chatgpt_rest.errors import Conflict, NotFound
from chatgpt_rest.mirror import Accounts
from tests.house import ManualClock
from tests.mirrors import opening


@pytest.fixture
async def accounts(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Accounts]:
    """Those of an empty mirror."""
    async with opening(tmp_path, clock) as mirror:
        yield mirror.accounts


async def test_the_export_says_it(accounts: Accounts) -> None:
    """user.json's id, known here or not: an import may come before the first token."""
    assert await owner_of(accounts, named="user-Alice", wanted=None) == "user-Alice"


async def test_a_person_may_say_the_same(accounts: Accounts) -> None:
    """By its id, and by the name that it has here."""
    await accounts.ensure("user-Alice", email=None)
    await accounts.name("user-Alice", "alice")
    for wanted in ("user-Alice", "alice"):
        assert await owner_of(accounts, named="user-Alice", wanted=wanted) == "user-Alice"


@pytest.mark.parametrize("wanted", ["user-Bob", "bob", "carol"])
async def test_a_person_who_says_another_is_told(accounts: Accounts, wanted: str) -> None:
    """Both are named; nobody's export goes into another's account."""
    await accounts.ensure("user-Bob", email=None)
    await accounts.name("user-Bob", "bob")
    with pytest.raises(Conflict, match=f"user-Alice.*{wanted}"):
        await owner_of(accounts, named="user-Alice", wanted=wanted)


async def test_the_only_account_is_meant(accounts: Accounts) -> None:
    """Where the export does not say, and nobody else does."""
    await accounts.ensure("user-Alice", email=None)
    assert await owner_of(accounts, named=None, wanted=None) == "user-Alice"


async def test_of_several_accounts_one_must_be_named(accounts: Accounts) -> None:
    """Those that there are are listed."""
    for account in ("user-Alice", "user-Bob"):
        await accounts.ensure(account, email=None)
    with pytest.raises(NotFound, match="user-Alice, user-Bob"):
        await owner_of(accounts, named=None, wanted=None)
    assert await owner_of(accounts, named=None, wanted="user-Bob") == "user-Bob"


async def test_where_there_is_none_an_id_makes_one(accounts: Accounts) -> None:
    """The one that access tokens carry; the error says how."""
    with pytest.raises(NotFound, match="--account user-…"):
        await owner_of(accounts, named=None, wanted=None)
    assert await owner_of(accounts, named=None, wanted="user-Alice") == "user-Alice"


@pytest.mark.parametrize("wanted", ["alice", "user-", "user-a b", "user-ä"])
async def test_a_name_makes_no_account(accounts: Accounts, wanted: str) -> None:
    """It may be mistyped."""
    with pytest.raises(NotFound, match="there is no account"):
        await owner_of(accounts, named=None, wanted=wanted)
