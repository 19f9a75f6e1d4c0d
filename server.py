# SPDX-License-Identifier: GPL-2.0-or-later
"""The door: `python server.py` runs the server, `python server.py --help` lists what else it can do."""

from chatgpt_rest.cli import main

if __name__ == "__main__":
    main()
