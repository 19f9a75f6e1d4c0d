# SPDX-License-Identifier: GPL-2.0-or-later
"""Benchmarks: this server beside the limit of what aiohttp can do, measured in one run. `python -m bench`."""
