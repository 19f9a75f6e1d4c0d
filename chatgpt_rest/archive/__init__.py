# SPDX-License-Identifier: GPL-2.0-or-later
"""The archive: the official export into the mirror, and the mirror into files that outlive this program."""
