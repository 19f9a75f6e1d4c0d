# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose an export is, where a command brings it: over HTTP the credential has said that already."""

from __future__ import annotations

import re
from typing import Final

from chatgpt_rest.errors import Conflict, NotFound
from chatgpt_rest.mirror import Accounts

_NEW_ID: Final = re.compile(r"user-[A-Za-z0-9]{1,100}")
"""What ChatGPT's ids of users look like: one that is not known yet may be given, a name that is mistyped not."""


async def owner_of(accounts: Accounts, *, named: str | None, wanted: str | None) -> str:
    """The id of the account, which need not be here yet. `named` is user.json's id, `wanted` an id or a name that a
    person gave.

    Raises Conflict where these two differ, NotFound where nothing says which one it is.
    """
    known = await accounts.all()
    named_so = (account.id for account in known if wanted is not None and wanted in {account.id, account.name})
    meant = next(named_so, wanted)
    if named is not None:
        if meant not in {None, named}:
            raise Conflict(f"this is the export of account {named}, and --account says {wanted}")
        return named
    if meant is not None and _NEW_ID.fullmatch(meant):
        return meant
    if known or wanted is not None:
        return await accounts.resolve(wanted)
    raise NotFound(
        "account",
        text="the export does not say whose it is, and there is no account yet; "
        "give it one with --account user-…, the id that access tokens carry",
    )
