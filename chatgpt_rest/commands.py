# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command and its options. One that needs the mirror goes through the running server, or opens it where none
runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape

from chatgpt_rest import launch
from chatgpt_rest.clock import SystemClock
from chatgpt_rest.config import Config, load_config
from chatgpt_rest.errors import MirrorError

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings that differ from the defaults.")
]
Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")]
OneAccount = Annotated[str | None, typer.Option("--account", help="Its id or name, where there are several.")]


class Format(StrEnum):
    """What `export` writes."""

    MARKDOWN = "markdown"
    HTML = "html"
    JSON = "json"
    CHATGPT = "chatgpt"


commands: Final = typer.Typer(
    help="Your ChatGPT conversations in a mirror you own, with a REST API on it.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys: Final = typer.Typer(help="Local API keys, for clients that have no ChatGPT token.", no_args_is_help=True)
accounts: Final = typer.Typer(help="The accounts in the mirror.", no_args_is_help=True)
commands.add_typer(keys, name="key")
commands.add_typer(accounts, name="account")

_LONGEST_LINE: Final = 16_384  # bytes; a token that is longer is none

_out: Final = Console(highlight=False, soft_wrap=True, emoji=False)  # what is printed may be a title


def run_commands() -> None:
    """Run what the arguments say. Raises MirrorError."""
    commands(prog_name="server.py")


@commands.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Serve, unless a command is named."""
    if context.invoked_subcommand is None:
        launch.serve(None, {})


@commands.command()
def serve(config: ConfigFile = None, host: Host = None, port: Port = None) -> None:
    """Run the server (also what happens with no command at all)."""
    launch.serve(config, _options(host, port))


@commands.command()
def demo(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
) -> None:
    """Run the server with a simulated ChatGPT behind it: nothing to configure, nothing kept."""
    from chatgpt_rest.demo import run_demo

    launch.start_logging("WARNING")
    launch.run(run_demo(host, port))


@commands.command()
def simulate(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8001,
) -> None:
    """Run the simulated ChatGPT alone, for anyone's tests."""
    from chatgpt_rest.demo import run_simulation

    launch.start_logging("WARNING")
    launch.run(run_simulation(host, port))


@commands.command()
def token(config: ConfigFile = None) -> None:
    """Give the running server an access token, read from standard input; it is kept in memory only."""
    if sys.stdin.isatty():
        text = typer.prompt("Access token", hide_input=True)
    else:
        text = sys.stdin.buffer.readline(_LONGEST_LINE).decode("ascii", "replace").strip()
    if not text:
        raise MirrorError("no token came on standard input")
    proved = _call(_load(config), "give_token", needs_server=True, token=text)
    _out.print(f"accepted: account {escape(proved['account'])}, valid until {proved['expires_at']}")


@commands.command()
def check(config: ConfigFile = None) -> None:
    """Look at the configuration, the mirror, upstream and the tokens: what is right, what is wrong, what to do."""
    from chatgpt_rest.checkup import checkup

    findings = launch.run(checkup(_load(config), SystemClock()))
    for finding in findings:
        mark, style = {"right": ("✓", "green"), "soon": ("!", "yellow"), "wrong": ("✗", "red")}[finding.verdict]
        _out.print(f"[{style}]{mark}[/] {escape(finding.text)}")
        if finding.remedy:
            _out.print(f"  → {escape(finding.remedy)}")
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)


@commands.command()
def undelete(
    conversations: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of conversations.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Bring back everything that can be.")] = False,
    account: OneAccount = None,
    config: ConfigFile = None,
) -> None:
    """Bring back what was deleted here, or list what can be. ChatGPT's own copy stays deleted: it is readable here, and
    nothing can be asked in it.
    """
    if conversations and everything:
        raise typer.BadParameter("name conversations, or --all")
    if not conversations and not everything:
        rows = _call(_load(config), "list_deleted", account=account)
        _print_table([{**row, "title": _one_line(row["title"])} for row in rows], "id", "deleted_at", "until", "title")
        return
    back = _call(_load(config), "undelete", account=account, ids=conversations or [], everything=everything)
    for each in back:
        what = f"{each['id']} {_one_line(each['title'])}".rstrip()
        _out.print(escape(f"{what} is back" + ("" if each["has_content"] else "; its content was never here")))
    if not back:
        _out.print("nothing is deleted")


@commands.command()
def sync(
    *,
    full: Annotated[bool, typer.Option("--full", help="Read every list to its end: finds what was deleted.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is stale and what it costs.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Go on where the budget is spent or ChatGPT away.")] = False,
    account: OneAccount = None,
    config: ConfigFile = None,
) -> None:
    """Bring the mirror up to date now, as far as the budget goes."""
    if dry_run:
        _print_outlook(_call(_load(config), "sync_outlook", account=account, is_full=full))
        return
    from chatgpt_rest.foreground import sync_now

    launch.start_logging("ERROR")  # of what goes wrong the command tells itself
    _run_stoppable(sync_now(_load(config), SystemClock(), _out, account=account, is_full=full, waits=wait))


@commands.command("import")
def import_exports(
    exports: Annotated[
        list[Path], typer.Argument(metavar="EXPORT...", help="ZIPs, folders, conversations.json files.")
    ],
    *,
    account: Annotated[
        str | None, typer.Option(help="Whose export it is, where it does not say itself: an id or a name.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read everything, write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ledger as JSON.")] = False,
    config: ConfigFile = None,
) -> None:
    """Take ChatGPT's official data export into the mirror: all parts of it, in any of its shapes. What is here already
    is merged; importing a file twice changes nothing.
    """
    from chatgpt_rest.importing import import_now

    launch.start_logging("ERROR")  # as above
    _run_stoppable(
        import_now(_load(config), SystemClock(), _out, exports, account=account, is_dry_run=dry_run, as_json=as_json)
    )


@commands.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; what did not change is left alone.")],
    *,
    form: Annotated[Format, typer.Option("--format", help="A file a conversation, or one ZIP as ChatGPT makes it.")],
    since: Annotated[str | None, typer.Option(help="Only what was updated since this date or time.")] = None,
    query: Annotated[str | None, typer.Option(help="Only what holds all of these words.")] = None,
    account: OneAccount = None,
    config: ConfigFile = None,
) -> None:
    """Write the conversations to files that need no program of ours."""
    from chatgpt_rest.exporting import export_now

    launch.start_logging("ERROR")  # as above
    _run_stoppable(
        export_now(
            _load(config), SystemClock(), _out, folder, form=form.value, since=since, query=query, account=account
        )
    )


@commands.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; it will hold everything.")],
    config: ConfigFile = None,
) -> None:
    """Put the mirror, its assets and the key of its credentials into one file, while a server runs or not."""
    from chatgpt_rest.safekeeping import backup_now

    launch.start_logging("ERROR")  # as above
    _run_stoppable(backup_now(_load(config), SystemClock(), _out, file))


@commands.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `backup` has made.")],
    config: ConfigFile = None,
) -> None:
    """Put a backup in the place of the mirror, which is kept beside it. No server may run meanwhile."""
    from chatgpt_rest.safekeeping import restore_now

    launch.start_logging("ERROR")  # as above
    _run_stoppable(restore_now(_load(config), SystemClock(), _out, file))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What you will know it by.")],
    account: Annotated[
        str | None,
        typer.Option(help="Id or name of the account that it reads (see `account list`), where there are several."),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Make a key and print it, this once. With an API as upstream, an account that is not there yet is made, too."""
    made = _call(_load(config), "create_key", name=name, account=account)
    print(made["key"])  # noqa: T201 - alone on standard output, so that it can be piped
    print(f"key {name} reads account {made['account']}; it is not shown again", file=sys.stderr)  # noqa: T201


@keys.command("list")
def list_keys(config: ConfigFile = None) -> None:
    """List the keys by name."""
    _print_table(_call(_load(config), "list_keys"), "name", "account", "created_at")


@keys.command("revoke")
def revoke_key(name: Annotated[str, typer.Argument(help="The key's name.")], config: ConfigFile = None) -> None:
    """Make a key worthless, at once."""
    _call(_load(config), "revoke_key", name=name)
    _out.print(f"key {escape(name)} opens nothing any more")


@accounts.command("list")
def list_accounts(config: ConfigFile = None) -> None:
    """List the accounts."""
    rows = _call(_load(config), "list_accounts")
    _print_table(rows, "id", "name", "email", "conversations", "token_expires_at")


@accounts.command("name")
def name_account(
    account: Annotated[str, typer.Argument(metavar="ID", help="The account's id.")],
    name: Annotated[str, typer.Argument(help="What you want to call it.")],
    config: ConfigFile = None,
) -> None:
    """Give an account a name, to be used wherever its id is asked for."""
    _call(_load(config), "name_account", account=account, name=name)
    _out.print(f"account {escape(account)} is {escape(name)} now")


def _load(file: Path | None, options: Mapping[str, str] | None = None) -> Config:
    launch.start_logging("WARNING")
    return load_config(file, {**os.environ, **(options or {})})


def _options(host: str | None, port: int | None) -> dict[str, str]:
    given = {"CHATGPT_REST_SERVER__HOST": host, "CHATGPT_REST_SERVER__PORT": None if port is None else str(port)}
    return {variable: value for variable, value in given.items() if value is not None}


def _call(config: Config, operation: str, *, needs_server: bool = False, **arguments: Any) -> Any:
    from chatgpt_rest.reach import call

    return launch.run(call(config, SystemClock(), operation, arguments, needs_server=needs_server))


def _run_stoppable(work: Coroutine[Any, Any, None]) -> None:
    from chatgpt_rest.foreground import run_stoppable

    stopped_by = launch.run(run_stoppable(work))
    if stopped_by is not None:
        raise typer.Exit(128 + stopped_by)  # as shells call a program that this signal has ended


def _one_line(title: str | None) -> str:
    """A title for a terminal: what would break the line or steer the terminal is a blank."""
    return "".join(character if character.isprintable() else " " for character in title or "")


def _print_outlook(outlook: dict[str, Any]) -> None:
    from chatgpt_rest.foreground import price
    from chatgpt_rest.sync_status import counted

    named = [{**each, "title": _one_line(each["title"])} for each in outlook["named"]]
    if named:
        _print_table(named, "updated", "what", "title")
    more = outlook["stale"] + outlook["set_aside"] - len(named)
    if more:
        _out.print(f"and {more} more")
    for name, pages in outlook["lists"].items():
        _out.print(escape(f"list to read: {_one_line(name)}, {counted(pages, 'page')}"))
    _out.print(escape(f"account {outlook['account']}: {price(outlook['plan'])}"))


def _print_table(rows: list[dict[str, Any]], *columns: str) -> None:
    if not rows:
        _out.print("none yet")
        return
    # Not rich's own table, which cuts ids to fit the terminal: they are there to be copied.
    cells = [
        [column.replace("_", " ") for column in columns],
        *(["" if row[column] is None else str(row[column]) for column in columns] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row_cells in cells:
        line = "   ".join(cell.ljust(width) for cell, width in zip(row_cells, widths, strict=True))
        _out.print(escape(line.rstrip()))
