# SPDX-License-Identifier: GPL-2.0-or-later
"""The models that upstream offers one account, as its list said when it was last read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from chatgpt_rest.clock import Clock
from chatgpt_rest.mirror.database import Database
from chatgpt_rest.model import Model


@dataclass(frozen=True, slots=True)
class KnownModels:
    """Upstream's list of models, in its order, as it was at `fetched_at` (µs)."""

    models: tuple[Model, ...]
    fetched_at: int

    def has(self, name: str) -> bool:
        """Whether a model of this name is in the list."""
        return any(model.id == name for model in self.models)


class Models:
    """The list of models of one account."""

    def __init__(self, database: Database, clock: Clock, account: str) -> None:
        self.account = account
        self._database = database
        self._clock = clock

    async def known(self) -> KnownModels | None:
        """The list as it was last read, None where it never was."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                "select models, fetched_at from model_list where account = ?", (self.account,)
            )
        for models, fetched_at in rows:
            return KnownModels(msgspec.json.decode(models, type=tuple[Model, ...]), fetched_at)
        return None

    async def keep(self, models: Sequence[Model]) -> None:
        """Write down what upstream offers now."""
        async with self._database.write() as connection:
            await connection.execute(
                "insert or replace into model_list (account, fetched_at, models) values (?, ?, ?)",
                (self.account, self._clock.now(), msgspec.json.encode(models)),
            )
