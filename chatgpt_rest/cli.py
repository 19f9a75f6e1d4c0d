# SPDX-License-Identifier: GPL-2.0-or-later
"""The door of the command line. `serve` is what happens when nothing is said, and loads no more than it needs."""

from __future__ import annotations

import sys
from typing import Final

from chatgpt_rest.errors import MirrorError, StartError

EXIT_START: Final = 78
"""The program cannot start, and starting it again would change nothing (EX_CONFIG of sysexits.h)."""


def main() -> None:
    """Run what the arguments say."""
    arguments = sys.argv[1:]
    try:
        if not arguments or arguments == ["serve"]:
            from chatgpt_rest.launch import serve

            serve(None, {})
        else:
            from chatgpt_rest.commands import run_commands

            run_commands()
    except MirrorError as error:
        print(f"chatgpt_rest: {error.text}", file=sys.stderr)  # noqa: T201 - a command's answer
        sys.exit(EXIT_START if isinstance(error, StartError) else 1)
