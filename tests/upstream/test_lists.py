# SPDX-License-Identifier: GPL-2.0-or-later
"""The lists beside the plain one, and where a list ends, over real HTTP. Its fixture holds tokens to requests."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from chatgpt_rest.chatgpt_json import time_us
from chatgpt_rest.errors import UpstreamBroken, UpstreamNotFound, UpstreamRejected
from chatgpt_rest.model import ListPage, Model, Project, ProjectPage
from chatgpt_rest.upstream.protocol import Caller
from chatgpt_rest.upstream.revchatgpt import RevChatGPT
from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT
from tests.upstream.far_end import RecordingGate

SIDEBAR = "gizmos/snorlax/sidebar"
ENDLESS = {"items": [{"id": "a", "gizmo": {"gizmo": {"id": "g-p-1"}}}], "cursor": "next"}


def filled(chatgpt: SimulatedChatGPT, project: str, number: int) -> list[SimConversation]:
    """So many conversations in a project, the newest first."""
    now = chatgpt.alice.add_conversation("Outside").update_time
    return [
        chatgpt.alice.add_conversation(f"Inside {index}", project=project, at=now - 60 * index)
        for index in range(number)
    ]


def asked(chatgpt: SimulatedChatGPT) -> tuple[str, dict[str, list[str]]]:
    """The path and the query of the last request, decoded."""
    url = urlsplit(chatgpt.requests[-1].path)
    return url.path, parse_qs(url.query, keep_blank_values=True)


# ----------------------------------------------------------------------------------------------------------- projects


async def test_projects_are_listed_to_their_end(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, gate: RecordingGate
) -> None:
    """Each page is one request and one token, and following the cursors gives each project once."""
    names = [f"Project {index}" for index in range(45)]
    made = [Project(chatgpt.alice.add_project(name), name) for name in names]
    pages = [await upstream.list_projects(alice)]
    while (cursor := pages[-1].cursor) is not None:
        pages.append(await upstream.list_projects(alice, cursor=cursor))
    assert [project for page in pages for project in page.projects] == made
    assert gate.taken == ["GET gizmos/snorlax/sidebar"] * 3


async def test_projects_are_asked_for_without_their_conversations(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """The sidebar's own few conversations of each project would be paid for twice."""
    await upstream.list_projects(alice)
    first = "owned_only=true&conversations_per_gizmo=0&limit=20&cursor="
    assert chatgpt.requests[0].path == f"/backend-api/{SIDEBAR}?{first}"


async def test_a_projects_conversations_are_listed_to_their_end(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, gate: RecordingGate
) -> None:
    """What the plain list leaves out comes page by page, newest first, each with its project."""
    project = chatgpt.alice.add_project("Garden")
    made = filled(chatgpt, project, 120)
    pages = [await upstream.list_project(alice, project)]
    while not pages[-1].is_last:
        pages.append(await upstream.list_project(alice, project, cursor=pages[-1].cursor))
    assert [(item.id, item.project) for page in pages for item in page.items] == [(each.id, project) for each in made]
    assert gate.taken == ["GET gizmos/{id}/conversations"] * 3
    assert chatgpt.requests[0].path == f"/backend-api/gizmos/{project}/conversations?cursor=0&limit=50"


async def test_an_empty_project_is_one_page(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """Nothing is in it, and nothing follows."""
    assert await upstream.list_project(alice, chatgpt.alice.add_project("Garden")) == ListPage((), is_last=True)


async def test_an_account_without_projects(upstream: RevChatGPT, alice: Caller) -> None:
    """An empty sidebar is no error."""
    assert await upstream.list_projects(alice) == ProjectPage((), None)


@pytest.mark.parametrize(
    "hostile", ["a&limit=1", "a#b", "../../conversations?x", "%2e%2e%2f", "a b+c=", "ä\u65e5", "/"]
)
async def test_a_cursor_stays_in_its_place(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, hostile: str
) -> None:
    """Whatever upstream calls its next page, that word goes back as it came and nowhere but into `cursor`."""
    chatgpt.fault("gizmos/*", body={**ENDLESS, "cursor": hostile})
    project = "g-p-1"
    projects = await upstream.list_projects(alice)
    await upstream.list_projects(alice, cursor=projects.cursor)
    sidebar = {"owned_only": ["true"], "conversations_per_gizmo": ["0"], "limit": ["20"], "cursor": [hostile]}
    assert asked(chatgpt) == (f"/backend-api/{SIDEBAR}", sidebar)
    page = await upstream.list_project(alice, project, cursor=projects.cursor)
    assert asked(chatgpt) == (f"/backend-api/gizmos/{project}/conversations", {"cursor": [hostile], "limit": ["50"]})
    assert page.is_last  # the same place again


@pytest.mark.parametrize("cursor", ["x" * 2_001, "", "0", 0, 1.5, True, [], {"at": 1}, "a\nb", "\ud800"], ids=repr)
async def test_a_cursor_that_is_none_ends_a_project(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, cursor: object
) -> None:
    """What came with it is kept, and nobody goes there."""
    chatgpt.fault("gizmos/*", body={**ENDLESS, "cursor": cursor})
    page = await upstream.list_project(alice, "g-p-1")
    assert ([item.id for item in page.items], page.is_last, page.cursor) == (["a"], True, None)


async def test_a_cursor_may_be_a_number(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """Compatible servers count where ChatGPT hides what it does."""
    chatgpt.fault("gizmos/*", body={**ENDLESS, "cursor": 50})
    assert (await upstream.list_project(alice, "g-p-1")).cursor == "50"


async def test_a_list_that_leads_to_itself_ends(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """A server that names the same next page for ever costs two requests, not all of them."""
    chatgpt.fault("gizmos/*", body=ENDLESS)
    assert (await upstream.list_projects(alice)).cursor == "next"
    assert (await upstream.list_projects(alice, cursor="next")).cursor is None
    assert (await upstream.list_project(alice, "g-p-1", cursor="next")).is_last


async def test_rubbish_among_projects_is_left_out(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """A project with no id, or with one that leads elsewhere, is none; the others are read."""
    gizmos: list[Any] = [None, [], {}, {"id": "../conversations"}, {"id": "g-p-1"}]
    items: list[Any] = [None, 7, {}, {"gizmo": None}, *({"gizmo": {"gizmo": gizmo}} for gizmo in gizmos)]
    chatgpt.fault(SIDEBAR, body={"items": items})
    assert (await upstream.list_projects(alice)).projects == (Project("g-p-1", None),)


@pytest.mark.parametrize("times", ["naive", "absent"])
async def test_a_projects_times_are_read_as_the_lists_are(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, times: Any
) -> None:
    """A time with no zone means UTC, and an update that is not told is not made up."""
    chatgpt.settings.times = times
    project = chatgpt.alice.add_project("Garden")
    there = filled(chatgpt, project, 1)[0]
    (item,) = (await upstream.list_project(alice, project)).items
    assert item.create_time == time_us(there.create_time)
    assert item.update_time == (time_us(int(there.update_time)) if times == "naive" else None)


async def test_a_project_that_is_not_there(upstream: RevChatGPT, alice: Caller) -> None:
    """An unknown project is not found, which says nothing of any conversation."""
    with pytest.raises(UpstreamNotFound) as caught:
        await upstream.list_project(alice, "g-p-0")
    assert not caught.value.is_gone


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        ({"status": 404, "body": "404 page not found"}, UpstreamBroken, "upstream_unknown_path"),
        ({"status": 404, "body": "<html></html>"}, UpstreamBroken, "upstream_unknown_path"),
        ({"status": 404, "body": {"detail": "Not Found"}}, UpstreamNotFound, "not_found"),
        ({"status": 405, "body": {"detail": "Method Not Allowed"}}, UpstreamRejected, "upstream_rejected"),
        ({"error": "invalid"}, UpstreamRejected, "upstream_rejected"),
    ],
)
async def test_a_server_without_projects_can_be_told(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, *, answer: Any, kind: type[Exception], code: str
) -> None:
    """Each way to say that there is no such endpoint is told apart from an upstream that fails."""
    chatgpt.fault("gizmos/*", **answer)
    for attempt in (upstream.list_projects(alice), upstream.list_project(alice, "g-p-1")):
        with pytest.raises(kind) as caught:
            await attempt
        assert getattr(caught.value, "code", None) == code


# ------------------------------------------------------------------------------------------------ archived, and the end


@pytest.mark.parametrize(("flag", "expected"), [({}, True), ({"is_archived": False}, False)], ids=str)
async def test_the_archived_list_speaks_for_its_items(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, flag: dict[str, bool], *, expected: bool
) -> None:
    """An item that does not say so is archived where the archived were asked for; one that says no is not."""
    chatgpt.fault("conversations", body={"items": [{"id": "a", **flag}]})
    page = await upstream.list_page(alice, offset=0, limit=100, is_archived=True)
    assert [item.is_archived for item in page.items] == [expected]
    assert asked(chatgpt)[1]["is_archived"] == ["true"]


async def test_a_look_ahead_total_does_not_prolong_the_list(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """`total` that is always one more than was shown proves nothing."""
    chatgpt.fault("conversations", body={"items": [{"id": "a"}], "total": 102, "limit": 100, "offset": 100})
    assert (await upstream.list_page(alice, offset=100, limit=100)).is_last


async def test_a_page_that_was_silently_cut_is_not_the_last(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """A server that serves fewer than asked for, without a word of it, is given away by its total."""
    cut = {"items": [{"id": f"c{index}"} for index in range(28)], "total": 3_000, "limit": 100, "offset": 0}
    chatgpt.fault("conversations", body=cut)
    assert not (await upstream.list_page(alice, offset=0, limit=100)).is_last
    assert (await upstream.list_page(alice, offset=2_972, limit=100)).is_last


async def test_an_empty_page_is_the_last_whatever_it_says(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """A server that promises more and shows none is not asked for ever."""
    chatgpt.fault("*", body={"items": [], "total": 3_000, "cursor": "next"})
    assert (await upstream.list_page(alice, offset=0, limit=100)).is_last
    assert (await upstream.list_project(alice, "g-p-1")).is_last
    assert (await upstream.list_projects(alice)).cursor is None


# ------------------------------------------------------------------------------------------------------------- models


async def test_the_models_are_listed(upstream: RevChatGPT, alice: Caller, gate: RecordingGate) -> None:
    """One request and one token, whose path is logged as it is."""
    models = await upstream.models(alice)
    assert models[0] == Model("gpt-5", title="GPT-5", max_tokens=196_000)
    assert [model.id for model in models] == ["gpt-5", "gpt-5-thinking", "gpt-4o", "text-davinci-002-render-sha"]
    assert gate.taken == ["GET models"]


async def test_odd_models_are_left_out(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """What no request could name is no model, and what is told twice is one."""
    names: list[Any] = ["a", None, "", 7, "x" * 201, "a\nb", "a", {"slug": "b"}]
    odd: dict[str, Any] = {
        "models": [*({"slug": name, "title": 1, "max_tokens": -1} for name in names), "c", {}, None, []]
    }
    chatgpt.fault("models", body=odd)
    assert await upstream.models(alice) == (Model("a"),)


@pytest.mark.parametrize("body", [{}, [], {"models": {}}, {"models": None}, "<html>"], ids=str)
async def test_what_is_no_list_of_models_is_broken(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller, body: Any
) -> None:
    """Nothing is made of it."""
    chatgpt.fault("models", body=body)
    with pytest.raises(UpstreamBroken, match="cannot be read"):
        await upstream.models(alice)
