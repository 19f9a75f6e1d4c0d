# SPDX-License-Identifier: GPL-2.0-or-later
"""A secret that the owner configured: from the environment for as long as the process lasts, or from a file that is
read again each time, since it may come later or change.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from chatgpt_rest.model import Secret

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConfiguredSecret:
    """Where it comes from. What is given at the start wins over the file."""

    given: Secret | None = None
    file: Path | None = None

    def read(self) -> Secret | None:
        """The secret as it is now; None where there is none, or its file cannot be read, which the log then says."""
        if self.given is not None or self.file is None:
            return self.given
        try:
            text = self.file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            log.warning("a credentials file cannot be read name=%s error=%s", self.file.name, type(error).__name__)
            return None
        return Secret(text) if text else None
