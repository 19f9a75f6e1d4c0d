# SPDX-License-Identifier: GPL-2.0-or-later
"""The REST API: each handler parses, makes one call, and responds. `routes.py` is the table of contents."""
