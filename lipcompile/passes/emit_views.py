"""The operators that make the views of an image: what `ensembles.views.View` defines.

    mirror    Slice with step -1; below opset 10, which has no steps, Gather
    shift     Pad by reflection, once for all shifts, and Slice
    zoom      MatMul with one constant matrix per axis: the same in every opset, runtime and
              element type, with crop and reflection inside

Images whose channels come last are transposed around a zoom; flat ones are reshaped first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes  # noqa: F401  (makes NumPy know "bfloat16")
import numpy as np
import onnx_ir as ir

from lipcompile.ensembles.image_input import ImageInput
from lipcompile.ensembles.views import View, zoom_matrix
from lipcompile.forged import Emitter

# Ends of a Slice: the first element, with a negative step, and the last one.
_FIRST, _LAST = -(2**63), 2**63 - 1


@dataclass(slots=True)
class ViewEmitter:
    """Builds the views of one input; what several of them need is made once.

    Attributes:
        emit: Where the nodes go.
        source: The graph input.
        image: What it is.
        opset: Version of the default operator set.
    """

    emit: Emitter
    source: ir.Value
    image: ImageInput
    opset: int
    _zoomed: dict[float, ir.Value] = field(default_factory=dict)
    _padded: dict[float, ir.Value] = field(default_factory=dict)

    def __call__(self, views: tuple[View, ...]) -> list[ir.Value]:
        """One value per view, each in the shape of the graph input."""
        margin = max(max(abs(view.down), abs(view.right)) for view in views)
        return [self._view(view, margin) for view in views]

    def _view(self, view: View, margin: int) -> ir.Value:
        if view == View():
            return self.source
        value = self._zoom(view.zoom)
        if view.down or view.right:
            padded = self._pad(view.zoom, value, margin)
            value = self._crop(padded, margin, view)
        if view.mirror:
            value = self._mirror(value)
        return self._folded(value)

    def _zoom(self, zoom: float) -> ir.Value:
        if zoom not in self._zoomed:
            image = self._zoomed.get(1.0) or self._unfolded()
            self._zoomed[1.0] = image
            if zoom != 1.0:
                self._zoomed[zoom] = self._zoom_by_matrices(image, zoom)
        return self._zoomed[zoom]

    def _zoom_by_matrices(self, image: ir.Value, zoom: float) -> ir.Value:
        height, width = self.image.sides
        assert height is not None and width is not None
        down = self._matrix(zoom_matrix(height, zoom))
        across = self._matrix(zoom_matrix(width, zoom).T)
        is_last = self.image.axes == (1, 2) and len(self.image.shape) == 4
        x = self._transposed(image, (0, 3, 1, 2)) if is_last else image
        x = self.emit("MatMul", self.emit("MatMul", down, x), across)
        return self._transposed(x, (0, 2, 3, 1)) if is_last else x

    def _pad(self, zoom: float, value: ir.Value, margin: int) -> ir.Value:
        if zoom not in self._padded:
            amounts = [0] * len(self.image.shape)
            for axis in self.image.axes:
                amounts[axis] = margin
            pads = [*amounts, *amounts]
            if self.opset >= 11:
                inputs: list[ir.Value] = [value, self._integers(pads)]
                attributes: dict[str, Any] = {"mode": "reflect"}
            else:
                inputs, attributes = [value], {"mode": "reflect", "pads": pads}
            self._padded[zoom] = self.emit("Pad", *inputs, attributes=attributes)
        return self._padded[zoom]

    def _crop(self, padded: ir.Value, margin: int, view: View) -> ir.Value:
        """What moves down shows what lay above it: the frame moves the other way."""
        shifts = (view.down, view.right)
        starts = [margin - shift for shift in shifts]
        ends = [-(margin + shift) or _LAST for shift in shifts]
        return self._slice(padded, starts, ends, list(self.image.axes))

    def _mirror(self, value: ir.Value) -> ir.Value:
        axis = self.image.axes[1]
        if self.opset >= 10:
            return self._slice(value, [-1], [_FIRST], [axis], [-1])
        width = self.image.sides[1]
        assert width is not None, "the plan refuses that"
        places = self._integers(range(width - 1, -1, -1))
        return self.emit("Gather", value, places, attributes={"axis": axis})

    def _slice(self, value: ir.Value, *bounds: list[int]) -> ir.Value:
        """Starts, ends, axes, and steps if any."""
        if self.opset >= 10:
            return self.emit("Slice", value, *map(self._integers, bounds))
        named = dict(zip(("starts", "ends", "axes"), bounds, strict=True))
        return self.emit("Slice", value, attributes=named)

    def _unfolded(self) -> ir.Value:
        """The images with axes for height and width."""
        if self.image.planes is None:
            return self.source
        shape = self._integers([0, *(int(n) for n in self.image.shape[1:])])
        return self.emit("Reshape", self.source, shape)

    def _folded(self, value: ir.Value) -> ir.Value:
        if self.image.planes is None:
            return value
        return self.emit("Flatten", value, attributes={"axis": 1})

    def _transposed(self, value: ir.Value, axes: tuple[int, ...]) -> ir.Value:
        return self.emit("Transpose", value, attributes={"perm": axes})

    def _integers(self, numbers: Iterable[int]) -> ir.Value:
        array = np.array(list(numbers), np.int64)
        if self.opset >= 9:
            return self._constant(array)
        floats = self._constant(array.astype(np.float32))  # the only constants before opset 9
        return self.emit.cast(floats, "int64")

    def _matrix(self, matrix: np.ndarray) -> ir.Value:
        return self._constant(matrix.astype(str(self.image.spec.dtype)))

    def _constant(self, array: np.ndarray) -> ir.Value:
        return self.emit("Constant", attributes={"value": ir.tensor(array)})
