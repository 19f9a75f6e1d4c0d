# SPDX-License-Identifier: GPL-2.0-or-later
"""Accounts, and the credentials that prove them. The one part of the mirror that is asked before an account is
known.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Literal

from chatgpt_rest.clock import Clock
from chatgpt_rest.errors import Conflict, NotFound
from chatgpt_rest.mirror.database import Database

Kind = Literal["access_token", "api_key"]


@dataclass(frozen=True, slots=True)
class Credential:
    """What a digest proves. `name` is an API key's, `expires_at` an access token's."""

    account: str
    digest: bytes
    kind: Kind
    name: str | None
    created_at: int
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class Account:
    """One upstream user, as the owner of the mirror sees it."""

    id: str
    name: str | None
    email: str | None
    conversations: int


class Accounts:
    """Who has an account here. Credentials are digests only; nothing here could be turned back into a token."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def find(self, digest: bytes) -> Credential | None:
        """The credential of this digest, expired or not; None where it was never accepted, or was forgotten."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                "select account, digest, kind, name, created_at, expires_at from credential where digest = ?",
                (digest,),
            )
        return next((Credential(*row) for row in rows), None)

    async def accept(self, account: str, digest: bytes, *, email: str | None, expires_at: int) -> None:
        """Upstream accepted this access token: remember it, and the account."""
        now = self._clock.now()
        async with self._database.write() as connection:
            await connection.execute(
                """
                insert into account (account, email, created_at) values (?, ?, ?)
                on conflict (account) do update set email = coalesce(excluded.email, email)
                """,
                (account, email, now),
            )
            await connection.execute("delete from credential where expires_at <= ?", (now,))
            await connection.execute(
                """
                insert or replace into credential (account, digest, kind, created_at, expires_at)
                values (?, ?, 'access_token', ?, ?)
                """,
                (account, digest, now, expires_at),
            )

    async def ensure(self, account: str, *, email: str | None) -> None:
        """An import brings this account, perhaps before its first token, which joins it then. What an export says of
        its address counts only where none is known.
        """
        async with self._database.write() as connection:
            await connection.execute(
                """
                insert into account (account, email, created_at) values (?, ?, ?)
                on conflict (account) do update set email = coalesce(email, excluded.email)
                """,
                (account, email, self._clock.now()),
            )

    async def forget(self, account: str, digest: bytes) -> None:
        """Upstream refused this access token: it reads nothing any more."""
        async with self._database.write() as connection:
            await connection.execute("delete from credential where account = ? and digest = ?", (account, digest))

    async def token_expiry(self, account: str) -> int | None:
        """When the last of the account's known access tokens ends; None where it has none."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                "select max(expires_at) from credential where account = ? and kind = 'access_token'", (account,)
            )
        return next((row[0] for row in rows), None)

    async def create_key(self, account: str, digest: bytes, *, name: str) -> None:
        """Remember a local API key. Raises Conflict where the name is taken."""
        try:
            async with self._database.write() as connection:
                await connection.execute(
                    "insert into credential (account, digest, kind, name, created_at) values (?, ?, 'api_key', ?, ?)",
                    (account, digest, name, self._clock.now()),
                )
        except sqlite3.IntegrityError:
            raise Conflict(f"there is a key {name} already; revoke it first, or choose another name") from None

    async def keys(self) -> list[Credential]:
        """The local API keys, oldest first."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select account, digest, kind, name, created_at, expires_at
                from credential where kind = 'api_key' order by created_at
                """
            )
        return [Credential(*row) for row in rows]

    async def revoke_key(self, name: str) -> bytes:
        """Forget a local API key and answer its digest. Raises NotFound."""
        async with self._database.write() as connection:
            rows = await connection.execute_fetchall("delete from credential where name = ? returning digest", (name,))
        for row in rows:
            return bytes(row[0])
        raise NotFound("key", text=f"there is no key {name}")

    async def all(self) -> list[Account]:
        """Every account, oldest first, with the number of its conversations."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select account.account, account.name, account.email, count(conversation.id)
                from account left join conversation
                  on conversation.account = account.account and conversation.deleted_at is null
                group by account.account order by account.created_at
                """
            )
        return [Account(*row) for row in rows]

    async def resolve(self, id_or_name: str | None) -> str:
        """The id of the account that is meant; with None, of the only one. Raises NotFound naming those there are."""
        known = await self.all()
        meant = [account.id for account in known if id_or_name is None or id_or_name in {account.id, account.name}]
        if len(meant) == 1:
            return meant[0]
        names = ", ".join(account.name or account.id for account in known) or "none yet"
        if meant:
            raise NotFound("account", text=f"there are several accounts; name one of them: {names}")
        missing = "no account" if id_or_name is None else f"no account {id_or_name}"
        raise NotFound(
            "account",
            text=f"there is {missing} (known: {names}); one appears when its access token is first used",
        )

    async def name(self, account: str, name: str) -> None:
        """Give an account a name for the command line. Raises Conflict where another one has it."""
        try:
            async with self._database.write() as connection:
                await connection.execute("update account set name = ? where account = ?", (name, account))
        except sqlite3.IntegrityError:
            raise Conflict(f"another account is called {name} already") from None
