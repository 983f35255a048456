"""TOML files: read with one message per mistake, and one table of plain values written."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipcompile.errors import OptionError

_MAX_BYTES = 1 << 20
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a file.

    Raises:
        OptionError: It cannot be read, or is no TOML.
    """
    try:
        if path.exists() and not path.is_file():
            raise OptionError(f"'{path}' is no file: name a TOML file with -c")
        if path.stat().st_size > _MAX_BYTES:
            raise OptionError(
                f"'{path}' has {path.stat().st_size:,} bytes, and holds no settings: name a "
                "TOML file with -c"
            )
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise OptionError(
            f"settings '{path}' cannot be read ({error.strerror}): check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise OptionError(
            f"'{path}' is no TOML: byte {error.start} is not UTF-8; save it as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        why = str(error).split("; use sys.")[0].rstrip(".")
        raise OptionError(f"'{path}' is no TOML ({why}): correct it there") from error


def table_text(path: Path, name: str, values: Mapping[str, Any]) -> str:
    """A table that `read_toml` reads again.

    Args:
        path: Where it will stand, for messages.
        name: Of the table.
        values: Strings, numbers, truth values, and lists of strings.

    Raises:
        OptionError: A string that is no Unicode cannot stand in TOML.
    """
    lines = [f"[{name}]", *(f"{_key(key)} = {_value(v)}" for key, v in values.items()), ""]
    text = "\n".join(lines)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OptionError(
            f"a name that is no UTF-8 cannot be written to '{path}': leave --save-config out, "
            "or rename the file"
        ) from error
    return text


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)  # of int and float, also inf and nan


def _string(text: str) -> str:
    """JSON's escapes are TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
