# SPDX-License-Identifier: GPL-2.0-or-later
"""The documents say what the program does: routes, errors, keys, commands, targets, answers and promises."""

from __future__ import annotations

import inspect
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main

from chatgpt_rest import errors
from chatgpt_rest.api.routes import API
from chatgpt_rest.commands import commands
from chatgpt_rest.config import CONFIG_VARIABLE, KEY_VARIABLE, PREFIX, TOKEN_VARIABLE, keys
from chatgpt_rest.refusing import STATUS
from tests.house import Client

CHECKOUT: Final = Path(__file__).parents[1]
DOCUMENTS: Final = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
API_PAGE: Final = (CHECKOUT / "docs/api.md").read_text("utf-8")
CONFIGURATION: Final = (CHECKOUT / "docs/configuration.md").read_text("utf-8")
README: Final = (CHECKOUT / "README.md").read_text("utf-8")
NEVER_OVER_HTTP: Final = {"start", "locked", "list_incomplete"}
"""Codes of errors that stop the start, and of one that is told in `/sync` alone."""


def sources() -> list[Path]:
    """The program's own modules, without the simulation."""
    package = CHECKOUT / "chatgpt_rest"
    return [path for path in package.rglob("*.py") if "simulated" not in path.parts]


def codes() -> set[str]:
    """Every code that an answer can carry, as the modules name them."""
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.MirrorError)]
    text = "".join(path.read_text("utf-8") for path in sources())
    given = re.findall(r'\bcode="([a-z_]+)"', text) + re.findall(r'code = "([a-z_]+)"', text)
    named = re.search(r"_CODES: Final = \{(.*?)\}", (CHECKOUT / "chatgpt_rest/middleware.py").read_text(), re.DOTALL)
    assert named is not None
    by_status = re.findall(r'\d+: "([a-z_]+)"', named[1])
    return ({one.code for one in classes} | set(given) | set(by_status)) - NEVER_OVER_HTTP


ROUTES = [f"{route.method} {route.path.replace(':.+', '')}" for route in API]
"""As a reader knows them: what a part of a path may look like is the router's business."""


def documented_codes() -> dict[str, str]:
    """Each code of the table of errors with the status beside it."""
    table = API_PAGE.split("## Errors")[1]
    found = {}
    for status, cell in re.findall(r"^\| ([\d /]+|job) \| ([^|]+) \|", table, re.MULTILINE):
        found.update(dict.fromkeys(re.findall(r"`([a-z_]+)`", cell), status.strip()))
    return found


# --------------------------------------------------------------------------------------------------------- the API


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_is_documented(route: str) -> None:
    """It has a row in the table at the top of docs/api.md."""
    assert re.search(rf"^\| \[`{re.escape(route)}`\]\(#[\w-]+\) \|", API_PAGE, re.MULTILINE)


def test_every_documented_route_exists() -> None:
    """The table promises nothing that is not there."""
    documented = set(re.findall(r"^\| \[`([A-Z]+ /[^`]*)`\]", API_PAGE, re.MULTILINE))
    assert documented == set(ROUTES)


def test_every_code_is_documented() -> None:
    """What programs test for is in the table of errors."""
    assert codes() - documented_codes().keys() == set()


def test_every_documented_code_exists() -> None:
    """The table names no code that no answer carries."""
    assert documented_codes().keys() - codes() == set()


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
def test_every_error_is_documented_with_its_status(kind: type[errors.MirrorError]) -> None:
    """Status and code stand in one row."""
    if kind not in {errors.UpstreamRefusedToken, errors.Unauthorized, errors.UpstreamNotFound}:
        assert documented_codes()[kind.code] == str(STATUS[kind])


# ---------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, names in keys().items() for key in names])
def test_every_key_is_documented_with_its_variable_and_default(section: str, key: str) -> None:
    """The row of docs/configuration.md agrees with config.toml."""
    value = tomllib.loads((CHECKOUT / "config.toml").read_text())[section][key]
    default = f" `{str(value).lower() if isinstance(value, bool) else value}` " if value not in ("", []) else " "
    row = f"| `[{section}] {key}` | `{PREFIX}{section.upper()}__{key.upper()}` |{default}| "
    assert row in CONFIGURATION


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_variable_in_the_documents_exists(document: Path) -> None:
    """No document names a variable that would stop the start."""
    known = {f"{PREFIX}{section}__{key}".upper() for section, names in keys().items() for key in names}
    mentioned = set(re.findall(r"CHATGPT_REST_[A-Z_]+[A-Z]", document.read_text("utf-8")))
    assert mentioned - known - {TOKEN_VARIABLE, KEY_VARIABLE, CONFIG_VARIABLE} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_key_in_the_documents_exists(document: Path) -> None:
    """`[section] key` means one of config.toml."""
    mentioned = re.findall(r"`\[([a-z_]+)\] ([a-z_]+)", document.read_text("utf-8"))
    assert [(section, key) for section, key in mentioned if key not in keys().get(section, ())] == []


# ------------------------------------------------------------------------------------------------ commands, targets


def command_names() -> set[str]:
    """Every command as it is typed, `key create` and the like included."""
    group: Any = typer.main.get_command(commands)
    names = set()
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        names |= {name} if inner is None else {f"{name} {each}" for each in inner}
    return names


@pytest.mark.parametrize("name", sorted(command_names()))
def test_every_command_is_in_the_readme(name: str) -> None:
    """As `server.py NAME`, or beside its siblings."""
    assert re.search(rf"(server\.py |`){name}\b", README)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_the_documents_exists(document: Path) -> None:
    """What is written after `server.py` can be typed."""
    typed = re.findall(r"server\.py ([a-z]+(?: [a-z]+)?)", document.read_text("utf-8"))
    known = command_names()
    assert [words for words in typed if words not in known and words.split()[0] not in known] == []


def targets() -> set[str]:
    """What the Makefile makes, each with its description."""
    text = (CHECKOUT / "Makefile").read_text().replace("$(VENV)", ".venv")
    return set(re.findall(r"^([.a-z]+):.*  ## \S", text, re.MULTILINE))


def test_every_target_of_the_makefile_is_described() -> None:
    """`make` alone tells what each is for."""
    text = (CHECKOUT / "Makefile").read_text().replace("$(VENV)", ".venv")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert set(phony.split()) == targets()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_target_in_the_documents_exists(document: Path) -> None:
    """`make X` in a document is a target."""
    text = document.read_text("utf-8")
    mentioned = set(re.findall(r"(?:^    |`)make ([.a-z]+)", text, re.MULTILINE))
    assert mentioned - targets() == set()


@pytest.mark.parametrize("target", ["demo", "run", "test"])
def test_the_readme_shows_how_to_begin(target: str) -> None:
    """The targets that a newcomer needs are there."""
    assert f"    make {target} " in README


# ---------------------------------------------------------------------------------------------------------- answers


def keys_shown(text: str) -> list[str]:
    """The names of JSON members in an example, in their order."""
    return re.findall(r'"(\w+)":', text)


def example(page: str, begin: str) -> str:
    """The example that follows a line, up to the next blank line."""
    return page.split(begin, 1)[1].split("\n\n", 1)[0]


async def test_the_readmes_answer_is_what_comes(client: Client) -> None:
    """Its members, in their order, are those of a real answer."""
    asked = await client.post("/conversations/new", data={"prompt": "Which planet has the most moons?"})
    shown = keys_shown(example(README, "has the most moons?'\n"))
    assert shown[0] == "response"
    assert [name for name in keys_shown(asked.body.decode()) if name in shown] == shown
    assert asked.status == 201


async def test_the_documented_messages_are_what_comes(client: Client) -> None:
    """docs/api.md shows every member of a message, in its order."""
    asked = await client.post("/conversations/new", data={"prompt": "Which planet has the most moons?"})
    conversation_id = asked.json["response"]["conversation_id"]
    messages = await client.get(f"/conversations/{conversation_id}/messages")
    assert keys_shown(example(API_PAGE, "c $S/conversations/$ID/messages\n")) == keys_shown(
        messages.body.decode().split("},{")[0]
    )


async def test_the_documented_list_is_what_comes(client: Client) -> None:
    """docs/api.md shows every member of an entry, in its order."""
    await client.post("/conversations/new", data={"prompt": "Hello?"})
    listed = await client.get("/conversations")
    assert keys_shown(example(API_PAGE, "c $S/conversations\n")) == list(listed.json[0])


async def test_the_documented_budget_is_what_comes(client: Client) -> None:
    """docs/api.md shows every member of the budget, in its order."""
    budget = await client.get("/budget")
    assert keys_shown(example(API_PAGE, "c $S/budget\n")) == list(budget.json)


async def test_the_documented_sync_is_what_comes(client: Client) -> None:
    """docs/api.md shows every member of how sync stands, in its order."""
    sync = await client.get("/sync")
    shown = json.loads(example(API_PAGE, "c $S/sync\n"))
    assert list(shown) == list(sync.json)
    for member in ("conversations", "plan", "budget"):
        assert list(shown[member]) == list(sync.json[member])


@pytest.mark.parametrize("path", ["healthz", "readyz"])
async def test_the_documented_states_are_what_comes(client: Client, path: str) -> None:
    """Byte for byte."""
    answer = await client.get(f"/{path}")
    assert example(API_PAGE, f"curl $S/{path}\n").split("\n")[0].strip() == answer.body.decode()


# ---------------------------------------------------------------------------------------------- the documents alone


def anchors(document: Path) -> set[str]:
    """What can be linked to in a document, by the rule that turns headings into anchors."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    """Links to files, and to headings in them, are whole."""
    broken = []
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text("utf-8")):
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append((path, anchor))
    assert broken == []


def test_the_rooms_in_the_readme_are_there() -> None:
    """The table of where things are names modules that exist."""
    rooms = re.findall(r"`([\w/]+\.py)`", README.split("## Where things are")[1])
    assert len(rooms) >= 5
    assert [room for room in rooms if not (CHECKOUT / "chatgpt_rest" / room).exists()] == []


def test_no_file_names_the_machine_it_was_written_on() -> None:
    """Neither this checkout's path nor that of its Python is in any file that is shipped."""
    folders = [CHECKOUT / name for name in ("chatgpt_rest", "tests", "docs", "deploy", "migrations", "bench")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files += [path for path in CHECKOUT.iterdir() if path.suffix in {".md", ".toml", ".lock", ".py"}]
    local = {str(CHECKOUT).encode(), sys.base_prefix.encode()} - {b"/", b"/usr"}
    assert [str(path) for path in files if any(each in path.read_bytes() for each in local)] == []


def test_every_promise_is_proved_by_a_test_that_exists() -> None:
    """`tests/…::test_name` in docs/promises.md leads to a test of that name."""
    promises = (CHECKOUT / "docs/promises.md").read_text("utf-8")
    proofs = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", promises)
    assert proofs
    missing = []
    for path, name in proofs:
        file = CHECKOUT / path
        if not file.exists() or (name and not re.search(rf"def {name}\(", file.read_text("utf-8"))):
            missing.append(f"{path}::{name}")
    assert missing == []
