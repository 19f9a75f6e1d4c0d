# SPDX-License-Identifier: GPL-2.0-or-later
"""The limit of an import: sqlite3 alone, putting rows that are ready into tables of the same schema.
`python -m bench.plain_insert FROM INTO` takes the rows out of the mirror FROM, and prints the seconds that putting them
into the new file INTO took; taking them out is not counted.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

from chatgpt_rest.archive.wire import BATCH_BYTES, BATCH_NODES

Row = tuple[Any, ...]

_ORDER: Final = {"node": "position", "attachment": "node, asset"}
"""The tables of what belongs to a conversation, and the order in which its rows came."""
_PRAGMAS: Final = ("journal_mode = wal", "synchronous = full", "trusted_schema = off", "secure_delete = on")


def main() -> None:
    """Measure once."""
    source = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
    target = sqlite3.connect(sys.argv[2], isolation_level=None)
    with closing(source), closing(target):
        for pragma in _PRAGMAS:
            target.execute(f"pragma {pragma}")
        for (statement,) in source.execute("select sql from sqlite_master where sql is not null order by rowid"):
            if not statement.startswith("CREATE TABLE sqlite_"):
                target.execute(statement)
        seconds = sum(_put(target, source, batch) for batch in _batches(source))
        began = time.perf_counter()
        target.close()
        print(seconds + time.perf_counter() - began)


def _batches(source: sqlite3.Connection) -> Iterator[list[Row]]:
    """Conversations in the order in which they came, as many at once as an import writes."""
    columns = ", ".join(_columns(source, "conversation"))
    batch: list[Row] = []
    size_bytes = nodes = 0
    for size, number, *row in source.execute(
        f"""
        select
            (select coalesce(sum(length(message)), 0) from node where account = it.account and conversation = it.id),
            (select count(*) from node where account = it.account and conversation = it.id),
            {columns}
        from conversation as it order by rowid
        """
    ):
        if batch and (size_bytes + size > BATCH_BYTES or nodes + number > BATCH_NODES):
            yield batch
            batch, size_bytes, nodes = [], 0, 0
        batch.append(tuple(row))
        size_bytes, nodes = size_bytes + size, nodes + number
    if batch:
        yield batch


def _put(target: sqlite3.Connection, source: sqlite3.Connection, conversations: list[Row]) -> float:
    """One transaction; the seconds that it took."""
    rows = {"conversation": conversations}
    for table, order in _ORDER.items():
        columns = ", ".join(_columns(source, table))
        query = f"select {columns} from {table} where account = ? and conversation = ? order by {order}"
        rows[table] = [row for account, name, *_ in conversations for row in source.execute(query, (account, name))]
    statements = {table: _insertion(target, table) for table in rows}
    began = time.perf_counter()
    target.execute("begin immediate")
    for table, statement in statements.items():
        target.executemany(statement, rows[table])
    target.execute("commit")
    return time.perf_counter() - began


def _insertion(connection: sqlite3.Connection, table: str) -> str:
    columns = _columns(connection, table)
    return f"insert into {table} ({', '.join(columns)}) values ({', '.join('?' * len(columns))})"


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """The columns of a table, without those that are computed."""
    return [row[1] for row in connection.execute(f"pragma table_info({table})")]


if __name__ == "__main__":
    main()
