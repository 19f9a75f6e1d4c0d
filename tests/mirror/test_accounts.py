# SPDX-License-Identifier: GPL-2.0-or-later
"""Accounts and credentials: digests only, each proving one account, until it is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatgpt_rest.clock import DAY
from chatgpt_rest.errors import Conflict, NotFound
from chatgpt_rest.mirror import Account, AccountMirror, Mirror
from tests.house import NOON, ManualClock
from tests.mirrors import opening
from tests.rows import rows
from tests.shapes import conversation


async def test_an_accepted_token_is_found_by_its_digest(mirror: Mirror) -> None:
    """With the account it proves and the moment it ends; another digest finds nothing."""
    found = await mirror.accounts.find(b"alice")
    assert found is not None
    assert (found.account, found.kind, found.name, found.expires_at) == ("alice", "access_token", None, NOON + DAY)
    assert await mirror.accounts.find(b"stranger") is None


async def test_a_token_is_forgotten_alone(mirror: Mirror) -> None:
    """Its account keeps its other credentials."""
    await mirror.accounts.accept("alice", b"second", email=None, expires_at=NOON + DAY)
    await mirror.accounts.forget("alice", b"alice")
    assert await mirror.accounts.find(b"alice") is None
    assert await mirror.accounts.find(b"second") is not None


async def test_nobody_forgets_another_accounts_token(mirror: Mirror) -> None:
    """The account is part of what is forgotten."""
    await mirror.accounts.forget("bob", b"alice")
    assert await mirror.accounts.find(b"alice") is not None


async def test_a_digest_proves_one_account_only(mirror: Mirror) -> None:
    """Accepted again for another account, it is no longer the first one's."""
    await mirror.accounts.accept("bob", b"alice", email=None, expires_at=NOON + DAY)
    found = await mirror.accounts.find(b"alice")
    assert found is not None
    assert found.account == "bob"


async def test_expired_tokens_are_cleared_away_by_the_next_one(mirror: Mirror, clock: ManualClock) -> None:
    """And local API keys never expire."""
    await mirror.accounts.create_key("alice", b"key", name="laptop")
    clock.move(seconds=2 * 86_400)
    await mirror.accounts.accept("bob", b"new", email=None, expires_at=clock.now() + DAY)
    assert set(rows(mirror.path, "select digest from credential")) == {(b"key",), (b"new",)}


async def test_an_account_can_be_there_before_its_first_token(mirror: Mirror) -> None:
    """An import brings it; its token joins it, with an address that counts for more than the export's."""
    for _ in range(2):
        await mirror.accounts.ensure("carol", email="carol@export")
    assert (await mirror.accounts.all())[-1] == Account("carol", None, "carol@export", 0)
    await mirror.accounts.accept("carol", b"carol", email="carol@home", expires_at=NOON + DAY)
    await mirror.accounts.ensure("carol", email="carol@export")
    assert (await mirror.accounts.all())[-1] == Account("carol", None, "carol@home", 0)
    await mirror.accounts.ensure("dan", email=None)
    await mirror.accounts.ensure("dan", email="dan@export")
    assert (await mirror.accounts.all())[-1].email == "dan@export"


async def test_an_email_is_not_lost_to_a_token_that_tells_none(mirror: Mirror) -> None:
    """A newer one replaces it."""
    await mirror.accounts.accept("alice", b"second", email=None, expires_at=NOON + DAY)
    assert (await mirror.accounts.all())[0].email == "alice@home"
    await mirror.accounts.accept("alice", b"second", email="new@home", expires_at=NOON + DAY)
    assert (await mirror.accounts.all())[0].email == "new@home"


async def test_the_expiry_of_an_account_is_that_of_its_last_token(mirror: Mirror) -> None:
    """None where it has no token; an API key is none."""
    await mirror.accounts.accept("alice", b"second", email=None, expires_at=NOON + 9 * DAY)
    assert await mirror.accounts.token_expiry("alice") == NOON + 9 * DAY
    await mirror.accounts.forget("bob", b"bob")
    await mirror.accounts.create_key("bob", b"key", name="laptop")
    assert await mirror.accounts.token_expiry("bob") is None


async def test_keys_are_listed_by_age_and_named_once(mirror: Mirror, clock: ManualClock) -> None:
    """A second key of the same name is refused, in any account, and changes nothing."""
    await mirror.accounts.create_key("alice", b"one", name="laptop")
    clock.move(seconds=1)
    await mirror.accounts.create_key("bob", b"two", name="phone")
    with pytest.raises(Conflict):
        await mirror.accounts.create_key("bob", b"three", name="laptop")
    assert [(key.name, key.account, key.expires_at) for key in await mirror.accounts.keys()] == [
        ("laptop", "alice", None),
        ("phone", "bob", None),
    ]
    assert await mirror.accounts.find(b"three") is None


async def test_a_revoked_key_proves_nothing(mirror: Mirror) -> None:
    """Its digest is answered once, and its name is free."""
    await mirror.accounts.create_key("alice", b"one", name="laptop")
    assert await mirror.accounts.revoke_key("laptop") == b"one"
    assert await mirror.accounts.find(b"one") is None
    with pytest.raises(NotFound):
        await mirror.accounts.revoke_key("laptop")
    await mirror.accounts.create_key("bob", b"two", name="laptop")


async def test_an_account_is_meant_by_id_or_name(mirror: Mirror) -> None:
    """An unknown one is refused with the names there are."""
    await mirror.accounts.name("alice", "me")
    assert await mirror.accounts.resolve("me") == "alice"
    assert await mirror.accounts.resolve("alice") == "alice"
    with pytest.raises(NotFound, match=r"known: me, bob"):
        await mirror.accounts.resolve("nobody")


async def test_the_only_account_need_not_be_named(tmp_path: Path, clock: ManualClock) -> None:
    """Where there are several, the error names them; where there is none, it says how one appears."""
    async with opening(tmp_path, clock) as mirror:
        with pytest.raises(NotFound, match=r"there is no account \(known: none yet\); one appears"):
            await mirror.accounts.resolve(None)
        await mirror.accounts.accept("alice", b"one", email=None, expires_at=NOON + DAY)
        assert await mirror.accounts.resolve(None) == "alice"
        await mirror.accounts.name("alice", "me")
        await mirror.accounts.accept("bob", b"two", email=None, expires_at=NOON + DAY)
        with pytest.raises(NotFound, match="there are several accounts; name one of them: me, bob"):
            await mirror.accounts.resolve(None)


async def test_two_accounts_cannot_have_one_name(mirror: Mirror) -> None:
    """Else a command could hit the wrong one; giving the same name again is fine."""
    await mirror.accounts.name("alice", "me")
    await mirror.accounts.name("alice", "me")
    with pytest.raises(Conflict):
        await mirror.accounts.name("bob", "me")


async def test_accounts_are_listed_with_what_they_hold(mirror: Mirror, alice: AccountMirror) -> None:
    """Deleted conversations do not count."""
    for name in ("a", "b"):
        await alice.conversations.save_whole(conversation(conversation_id=name))
    await alice.deletions.bury("a")
    assert await mirror.accounts.all() == [
        Account("alice", None, "alice@home", 1),
        Account("bob", None, "bob@home", 0),
    ]


async def test_without_accounts_the_owner_is_told_how_one_appears(tmp_path: Path, clock: ManualClock) -> None:
    """The error of an empty mirror says what to do."""
    async with opening(tmp_path, clock) as mirror:
        with pytest.raises(NotFound, match=r"none yet.*first used"):
            await mirror.accounts.resolve("alice")
