# SPDX-License-Identifier: GPL-2.0-or-later
"""How sync stands with an account, and what is left to do: what `/sync`, the command line and `check` tell. Looking
costs no request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from chatgpt_rest.budget import Budget
from chatgpt_rest.claims import EXPIRES_SOON
from chatgpt_rest.clock import DAY, iso
from chatgpt_rest.errors import StorageFailed, UpstreamError, UpstreamLimit, UpstreamRefusedToken
from chatgpt_rest.listing import OVERLAP, PLAIN
from chatgpt_rest.mirror import AccountMirror, Counts, KnownList, Mirror, SetAside, StaleConversation, SyncState
from chatgpt_rest.plan import Desk, Pass
from chatgpt_rest.sync import Sync, Tokens
from chatgpt_rest.upstream.protocol import LARGEST_PAGE

State = Literal["idle", "running", "paused", "offline"]

TOKEN_CODES: Final = frozenset({"no_access_token", UpstreamRefusedToken.code, "access_token_expired"})
"""Reasons of a pause that another token ends."""
STORAGE_CODES: Final = frozenset({"storage_full", StorageFailed.code})
"""Reasons of one that ends when the disk is well."""

_MOST_SET_ASIDE: Final = 20
_MOST_NAMED: Final = 50


@dataclass(frozen=True, slots=True)
class Price:
    """What it takes to be current again. `finishes_at` (µs) is None where nothing is needed."""

    requests_needed: int
    finishes_at: int | None


_NOTHING: Final = Price(0, None)


@dataclass(frozen=True, slots=True)
class Status:
    """How sync stands with one account. Times in µs."""

    account: str
    state: State
    reason: str | None
    """The code of what it waits for."""
    resumes_at: int | None
    memory: SyncState
    last_listed_at: int | None
    counts: Counts
    set_aside: list[SetAside]
    """The newest of them."""
    price: Price
    budget: Budget
    """All of it, with what sync leaves to people."""
    reserve: int
    """How many requests that is."""
    current: Pass | None
    last: Pass | None
    token_expires_at: int | None
    is_enabled: bool


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a pass that somebody asks for now would do."""

    account: str
    stale: list[StaleConversation]
    set_aside: list[SetAside]
    """What it would try once more: only a full one does."""
    lists: dict[str, int]
    """The names of those that would be read, and about how many pages each takes."""
    price: Price


@dataclass(frozen=True, slots=True)
class _Rows:
    memory: SyncState
    lists: list[KnownList]
    counts: Counts
    budget: Budget
    """What sync may take of it."""


async def read_status(account: str, *, mirror: Mirror, sync: Sync, tokens: Tokens) -> Status:
    """How sync stands with this account now."""
    own, desk = mirror.of(account), sync.desk(account)
    rows = await _read_rows(own, mirror, sync)
    # To look for them is to look at every conversation there is, and mostly there are none.
    set_aside = await own.backlog.set_aside(limit=_MOST_SET_ASIDE) if rows.counts.set_aside else []
    expires_at = tokens.expires_at(account)
    has_token = expires_at is not None
    if expires_at is None and sync.is_possible:
        expires_at = await mirror.accounts.token_expiry(account)
    # A pass that nobody goes on with is none; one that waits for a token goes on with the next.
    current = desk.current if _is_tended(desk, sync) or not has_token else None
    state, reason, resumes_at = _standing(rows, current, has_token=has_token, expires_at=expires_at)
    price = _NOTHING
    if sync.is_possible:
        price, _ = await _price(own, sync, rows, is_wanted=current is not None and current.wants_list)
    else:
        state, reason, resumes_at = "paused", "sync_off", None
    return Status(
        account=account,
        state=state,
        reason=reason,
        resumes_at=resumes_at,
        memory=rows.memory,
        last_listed_at=rows.lists[0].read_at,
        counts=rows.counts,
        set_aside=set_aside,
        price=replace(price, finishes_at=_no_sooner(price.finishes_at, resumes_at) if has_token else None),
        budget=replace(rows.budget, capacity=mirror.requests.capacity),
        reserve=sync.leave,
        current=current,
        last=desk.last,
        token_expires_at=expires_at,
        is_enabled=sync.config.enabled,
    )


async def read_outlook(account: str, *, mirror: Mirror, sync: Sync, is_full: bool) -> Outlook:
    """What a pass would do that somebody asks for now, a full one perhaps. Raises Conflict where none can be made."""
    sync.require_upstream()
    own = mirror.of(account)
    rows = await _read_rows(own, mirror, sync)
    again: list[SetAside] = []
    if is_full:
        again = await own.backlog.set_aside(limit=-1)
        memory = replace(rows.memory, sweep_began_at=rows.budget.now)
        rows = replace(rows, memory=memory, counts=replace(rows.counts, stale=rows.counts.stale + len(again)))
    price, lists = await _price(own, sync, rows, is_wanted=True)
    return Outlook(account, await own.backlog.outlook(), again, lists, price)


def status_json(status: Status) -> dict[str, Any]:
    """The one shape in which anybody is told."""
    counts, memory, budget, expires_at = status.counts, status.memory, status.budget, status.token_expires_at
    return {
        "state": status.state,
        "account": status.account,
        "reason": status.reason,
        "resumes_at": _iso(status.resumes_at),
        "last_full_sweep": _iso(memory.swept_at),
        "last_listed_at": _iso(status.last_listed_at),
        "conversations": {
            "known": counts.known,
            "current": counts.current,
            "stale": counts.stale,
            "missing_upstream": counts.missing_upstream,
            "set_aside": counts.set_aside,
            "slim": counts.slim,
        },
        "set_aside": [{"id": each.id, "title": each.title, "reason": each.reason} for each in status.set_aside],
        "plan": _price_json(status.price),
        "budget": {
            "remaining": budget.remaining if budget.is_limited else None,
            "reserve": status.reserve,
            "resets_at": iso(budget.more_at) if budget.more_at > budget.now else None,
        },
        "pass": None if status.current is None else _pass_json(status.current),
        "last_pass": None
        if status.last is None
        else {**_pass_json(status.last), "ended_at": _iso(status.last.ended_at)},
        "token_expires_at": _iso(expires_at),
        "token_expires_soon": expires_at is not None and expires_at <= budget.now + EXPIRES_SOON,
        "last_error": None
        if memory.error is None
        else {"code": memory.error.code, "error": memory.error.text, "at": iso(memory.error.at)},
        "enabled": status.is_enabled,
    }


def outlook_json(outlook: Outlook) -> dict[str, Any]:
    """The same of what is ahead. Of what would be fetched the first are named, the newest of what is stale before
    what was set aside.
    """
    named = [
        *(
            {"title": each.title, "updated": _iso(each.update_time), "what": "new" if each.is_new else "changed"}
            for each in outlook.stale
        ),
        *({"title": each.title, "updated": None, "what": "set aside"} for each in outlook.set_aside),
    ]
    return {
        "account": outlook.account,
        "stale": len(outlook.stale),
        "set_aside": len(outlook.set_aside),
        "named": named[:_MOST_NAMED],
        "lists": outlook.lists,
        "plan": _price_json(outlook.price),
    }


# ------------------------------------------------------------------------------------------------------------ standing


def _is_tended(desk: Desk, sync: Sync) -> bool:
    """Whether somebody goes on with a pass that has begun."""
    has_keeper = desk.keeper is not None and not desk.keeper.done()
    return has_keeper or desk.turn.locked() or sync.config.enabled


def _standing(
    rows: _Rows, current: Pass | None, *, has_token: bool, expires_at: int | None
) -> tuple[State, str | None, int | None]:
    """State, reason, and until when."""
    memory, budget = rows.memory, rows.budget
    if not has_token:
        return "paused", _why_no_token(memory, expires_at=expires_at, now=budget.now), None
    if budget.is_blocked:
        return "paused", UpstreamLimit.code, budget.blocked_until
    if memory.rests_until is not None and memory.rests_until > budget.now:
        return "offline", memory.error.code if memory.error else UpstreamError.code, memory.rests_until
    if current is None:
        return "idle", None, None
    if current.waits_until is None or current.waits_until <= budget.now:
        return "running", None, None
    state: State = "paused" if current.waits_for in STORAGE_CODES else "running"
    return state, current.waits_for, current.waits_until


def _why_no_token(memory: SyncState, *, expires_at: int | None, now: int) -> str:
    if memory.error is not None and memory.error.code == UpstreamRefusedToken.code:
        return UpstreamRefusedToken.code
    if expires_at is not None and expires_at <= now:
        return "access_token_expired"
    return "no_access_token"


# --------------------------------------------------------------------------------------------------------------- price


async def _read_rows(own: AccountMirror, mirror: Mirror, sync: Sync) -> _Rows:
    return _Rows(
        memory=await own.sync.load(),
        lists=await own.listings.all(),
        counts=await own.backlog.counts(),
        budget=await mirror.requests.budget(own.account, leave=sync.leave),
    )


async def _price(own: AccountMirror, sync: Sync, rows: _Rows, *, is_wanted: bool) -> tuple[Price, dict[str, int]]:
    """What is left to do costs this much, with the pages of each list that is due. It reckons with the budget alone,
    and not with a rest: asking for a pass ends that.
    """
    memory = _with_sweep(rows.memory, sync, now=rows.budget.now)
    lists = {
        known.name: _pages(known, memory, rows.counts)
        for known in rows.lists
        if sync.plan.is_due(known, rows.lists, memory, is_wanted=is_wanted)
    }
    unseen = await sync.plan.count_unseen(own, memory, rows.lists)
    number = sum(lists.values()) + rows.counts.stale + unseen
    return Price(number, rows.budget.time_of(number) if number else None), lists


def _no_sooner(finishes_at: int | None, resumes_at: int | None) -> int | None:
    return None if finishes_at is None else max(finishes_at, resumes_at or 0)


def _with_sweep(memory: SyncState, sync: Sync, *, now: int) -> SyncState:
    """The state with the full sweep that the next pass begins."""
    is_under_way = memory.sweep_began_at is not None or memory.swept_at is None
    if is_under_way or (memory.swept_at or 0) + sync.config.sweep_interval_days * DAY > now:
        return memory
    return replace(memory, sweep_began_at=now)


def _pages(known: KnownList, memory: SyncState, counts: Counts) -> int:
    """About how many requests reading this list takes. How long it is, nobody knows before its end: the plain one is
    taken to hold what is here and was not read yet, any other one to end on its first page.
    """
    reading = known.listing
    is_unswept = memory.sweep_began_at is not None and (known.swept_at or 0) < memory.sweep_began_at
    goes_to_end = known.ground is None or (reading.is_sweep if reading is not None else is_unswept)
    if known.name != PLAIN or not goes_to_end:
        return 1
    items = counts.known - counts.missing_upstream - (0 if reading is None else reading.next_offset)
    return max(1, -(-items // (LARGEST_PAGE - OVERLAP)))


# ---------------------------------------------------------------------------------------------------------------- words


def counted(number: int, noun: str) -> str:
    """So many of them, as a person would say it."""
    return f"{number} {noun}{'s' * (number != 1)}"


# ---------------------------------------------------------------------------------------------------------------- JSON


def _price_json(price: Price) -> dict[str, Any]:
    return {"requests_needed": price.requests_needed, "finishes_at": _iso(price.finishes_at)}


def _pass_json(this: Pass) -> dict[str, Any]:
    return {
        "began_at": iso(this.began_at),
        "requests": this.requests,
        "fetched": this.fetched,
        "gone": this.gone,
        "failed": this.failed,
    }


def _iso(time: int | None) -> str | None:
    return None if time is None else iso(time)
