"""Commands as one types them."""

from __future__ import annotations

import re
import shlex


def shell(text: str) -> str:
    """A text as one writes it in a shell: in double quotes where single ones may stand in it."""
    if re.fullmatch(r"[\w.,:/@%+=-]+", text):
        return text
    return shlex.quote(text) if re.search(r"[$`\\\"!]", text) else f'"{text}"'
