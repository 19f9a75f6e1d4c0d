# SPDX-License-Identifier: GPL-2.0-or-later
"""What really lies in the SQLite file, read past the program."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.house import House


def rows(where: House | Path, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query on the mirror of a house, or on a file."""
    path = where.config.mirror.path if isinstance(where, House) else where
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()
