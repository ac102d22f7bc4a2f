"""Text of others made safe for a terminal: what it would obey is shown, not sent.

A model, a server, a file, a journal or an exception may hold escape sequences: they retitle a
window, move the cursor over what was printed, or put text into the clipboard.
"""

from __future__ import annotations

import re

_OBEYED = re.compile(
    # C0 without tab and newline, DEL, C1
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    # marks that turn the direction of what follows, and the two odd line ends
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    # lone surrogates: no terminal takes them, and printing them raises
    "\ud800-\udfff]"
)


def clean(text: object) -> str:
    r"""The text with every character that a terminal obeys written out, as Python writes it.

    Newlines and tabs stay; a line end of Windows is one.

    Example:
        >>> clean("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], str(text).replace("\r\n", "\n"))
