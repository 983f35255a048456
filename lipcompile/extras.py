"""Optional packages: import them, or say which extra brings them."""

from __future__ import annotations

import importlib

from lipcompile.errors import MissingExtraError


def require_extra(extra: str, *modules: str) -> None:
    """Makes sure that the packages of an extra import.

    Raises:
        MissingExtraError: One does not; the message names the pip line.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise MissingExtraError(
                f"this needs the package '{module}', which does not import ({error}): "
                f'pip install "lipcompile[{extra}]"'
            ) from error
