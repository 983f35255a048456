"""Importing this module makes sure that the packages of the extra `certify` are there."""

from __future__ import annotations

from lipcompile.extras import require_extra

require_extra("certify", "scipy")
