# SPDX-License-Identifier: GPL-2.0-or-later
"""Draw docs/demo.svg: what the demo prints, and what it answers, taken from a demo that really runs. `make picture`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

ROOT: Final = Path(__file__).parent.parent
COLUMNS: Final = 118
LINES: Final = 16  # of a file

# rich's own template, without the fonts that it would fetch from a third party.
TEMPLATE: Final = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def main() -> None:
    """Run the demo, paste its lines, and draw."""
    console = Console(record=True, width=COLUMNS, file=sys.stderr, highlight=False)
    demo = subprocess.Popen(
        [sys.executable, ROOT / "server.py", "demo", "--port", "8000"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        console.print("$ make demo", style="bold green")
        for line in demo.stdout or ():
            shown = line.rstrip()
            if "access token" in shown:
                shown = shown[:60] + "…"
            console.print(Text(_shortened(shown), style="" if shown.startswith((" ", "curl")) else "bold"))
            if shown.startswith("curl"):
                console.print(Text(_answer(line), style="cyan"))
            if "Ctrl-C" in shown:
                break
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait(timeout=20)
    console.save_svg(str(ROOT / "docs" / "demo.svg"), title="chatgpt_rest", code_format=TEMPLATE)


def _answer(line: str) -> str:
    body = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout
    if body.startswith("data: "):  # a stream: its first words
        chunks = [json.loads(event[6:])["choices"][0] for event in body.split("\n\n")[1:4]]
        return "\n".join([*(f"data: {{… {json.dumps(chunk, ensure_ascii=False)} …}}" for chunk in chunks), "…"])
    if not body.startswith(("{", "[")):  # a file: how it begins
        return "\n".join([line[:COLUMNS] for line in body.splitlines()[:LINES]] + ["…"])
    text = json.dumps(json.loads(body), ensure_ascii=False)
    return text if len(text) < COLUMNS * 2 else text[: COLUMNS * 2 - 2] + "…"


def _shortened(line: str) -> str:
    return re.sub(r"@\S+/(header|export\.zip)", r"@\1", line)


if __name__ == "__main__":
    main()
