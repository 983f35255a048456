"""Labelled images in pixel units: what attacks start from."""

from __future__ import annotations

from lipcompile.labelled.images import LabelledImages
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.labelled.opening import open_labelled

__all__ = ["LabelledImages", "Normalisation", "open_labelled"]
