# SPDX-License-Identifier: GPL-2.0-or-later
"""ChatGPT's lists as its wire has them: conversations by offset, projects and what is in them by cursors, models
whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from chatgpt_rest.chatgpt_json import is_id, listed
from chatgpt_rest.model import ListPage, Model, Project, ProjectPage

_LONGEST_CURSOR: Final = 2_000  # characters; upstream's own have about a hundred
_LONGEST_NAME: Final = 200  # of a model, in characters; no request may name a longer one either


def list_page(value: object, *, offset: int, limit: int, is_archived: bool = False) -> ListPage:
    """One page of `GET conversations`, asked for with these. Items with no usable id are left out; those that do not
    say whether they are archived are what was asked for.

    Raises ValueError where this is no list. A short page ends it: shorter than asked for, or than the `limit` that the
    server says. Not so where `total` tells of more than one beyond it; exactly one is what a look-ahead always says.
    """
    page = _page(value)
    length = len(page["items"])
    is_short = length < min(limit, _count(page, "limit") or limit)
    is_cut = _count(page, "total") > offset + length + 1
    named = list(_named(page["items"]))
    return ListPage(
        tuple(listed(item, is_archived=is_archived) for item in named),
        is_last=length == 0 or (is_short and not is_cut),
        tells_archived=all(isinstance(item.get("is_archived"), bool) for item in named),
    )


def project_list(value: object, *, project_id: str, cursor: str) -> ListPage:
    """One page of a project's conversations, asked for with `cursor`: they are its own whatever they say themselves.

    Raises ValueError where this is no list. A page that is empty or names no usable cursor to go on with is the last.
    """
    page = _page(value)
    following = _next_cursor(page, cursor)
    items = tuple(listed(item, project=project_id) for item in _named(page["items"]))
    return ListPage(items, is_last=following is None, cursor=following)


def project_page(value: object, *, cursor: str) -> ProjectPage:
    """One page of an account's projects, asked for with `cursor`. Raises and ends as `project_list` does."""
    page = _page(value)
    gizmos = _named(_members(_members(item).get("gizmo")).get("gizmo") for item in page["items"])
    projects = tuple(Project(gizmo["id"], _text(_members(gizmo.get("display")).get("name"))) for gizmo in gizmos)
    return ProjectPage(projects, _next_cursor(page, cursor))


def models(value: object) -> tuple[Model, ...]:
    """What `GET models` offers, in its order. Models with no name that a request could use are left out, and so is one
    that was there before.

    Raises ValueError where this is no list.
    """
    if not isinstance(value, dict) or not isinstance(value.get("models"), list):
        raise ValueError("it is no list of models")
    found: dict[str, Model] = {}
    for item in value["models"]:
        name = _text(_members(item).get("slug")) or ""
        if 0 < len(name) <= _LONGEST_NAME and name.isprintable():
            found.setdefault(
                name, Model(name, title=_text(item.get("title")), max_tokens=_count(item, "max_tokens") or None)
            )
    return tuple(found.values())


def _page(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("items"), list):
        raise ValueError("it is no list")
    return value


def _count(page: Mapping[str, Any], name: str) -> int:
    told = page.get(name)
    return told if isinstance(told, int) and not isinstance(told, bool) and told > 0 else 0


def _next_cursor(page: Mapping[str, Any], asked: str) -> str | None:
    cursor = _text(page.get("cursor")) or str(_count(page, "cursor") or "")
    is_usable = 0 < len(cursor) <= _LONGEST_CURSOR and cursor.isprintable()
    # Neither the same place again nor one beyond the end: some servers name a next page without end.
    return cursor if is_usable and cursor != asked and page["items"] else None


def _named(items: Iterable[object]) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict) and isinstance(item.get("id"), str) and is_id(item["id"])]


def _members(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
