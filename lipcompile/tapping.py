"""The logits of a classifier, run in ONNX Runtime: what its scores were made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipcompile import model_io, runtime
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions, Session
from lipcompile.scores import logits_name


@dataclass(frozen=True, slots=True)
class TappedScores:
    """A model with its logits as an output.

    Attributes:
        session: The model.
        output: The output that holds them.
        dtype: NumPy name of their element type.
    """

    session: Session
    output: str
    dtype: str

    @classmethod
    def open(
        cls,
        source: LoadedModel,
        proto: Any,
        scores: str,
        options: RuntimeOptions,
        at: str | None = None,
    ) -> TappedScores:
        """Opens `proto`, a rewrite of `source`, on the CPU.

        Args:
            source: What was loaded.
            proto: The model.
            scores: Name of the output with the class scores.
            options: Threads.
            at: The tensor in place of which the scores stand, where they are something else.

        Raises:
            ModelError: It does not load.
        """
        name = logits_name(model_io.load(proto, source.base_dir).graph_ir, at or scores)
        dtype = next((str(s.dtype) for s in source.outputs if s.name == scores), "float32")
        on_cpu = RuntimeOptions(threads=options.threads, spinning=False)
        content = model_io.with_outputs(proto, [name])
        return cls(runtime.open_session(content, on_cpu, source.base_dir), name, dtype)

    def logits(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """float64 [N, K].

        Raises:
            RunFailure: The model does not run on these.
        """
        return _rows(self.session.run([self.output], feeds)[self.output])

    def with_output(
        self, feeds: Mapping[str, np.ndarray], name: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """The logits, and an output of the model, of the same run.

        Raises:
            RunFailure: The model does not run on these.
        """
        results = self.session.run([self.output, name], feeds)
        return _rows(results[self.output]), np.asarray(results[name])


def _rows(scores: np.ndarray) -> np.ndarray:
    wide = np.asarray(scores, np.float64)
    return wide.reshape(len(wide), -1)
