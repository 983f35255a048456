"""Labelled images in pixel units: what attacks start from."""

from __future__ import annotations

from lipcompile.auditing.data.labelled import LabelledImages
from lipcompile.auditing.data.normalisation import Normalisation
from lipcompile.auditing.data.opening import open_labelled

__all__ = ["LabelledImages", "Normalisation", "open_labelled"]
