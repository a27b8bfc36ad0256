"""Text in CSV files, which people open in spreadsheet programs: a cell that begins like a formula would be computed there.

`guard` puts an apostrophe before such text, `unguard` takes it away again; whatever was guarded comes back as it was.
"""

import re
from typing import Final

_FORMULA: Final = r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"  # also in full width
_DANGEROUS: Final = re.compile(rf"'*{_FORMULA}")
_GUARDED: Final = re.compile(rf"'+{_FORMULA}")


def guard(text: str) -> str:
    return f"'{text}" if _DANGEROUS.match(text) else text


def unguard(cell: str) -> str:
    return cell[1:] if _GUARDED.match(cell) else cell
