# SPDX-License-Identifier: GPL-2.0-or-later
"""A self-hosted server that keeps a person's ChatGPT conversations in a SQLite mirror they own."""

__version__ = "0.1.0"
