# SPDX-License-Identifier: GPL-2.0-or-later
"""Going upstream: the protocol the rest of the program sees, and revChatGPT behind one metered gate."""
