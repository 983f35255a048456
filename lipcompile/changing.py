"""What a rewrite changes on purpose in the outputs: checks allow exactly that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipcompile.abstaining.head import Head
from lipcompile.abstaining.wrapping import declare
from lipcompile.records import ABSTAIN, LIPSCHITZ, read_record
from lipcompile.rescaling.plan import Rescaling


@dataclass(frozen=True, slots=True)
class Change:
    """How outputs of a hardened model differ from those of its original by intent.

    Attributes:
        rescaling: Logits are a factor times what they were.
        head: Scores have one column more, or there is one more output.
    """

    rescaling: Rescaling | None = None
    head: Head | None = None

    @classmethod
    def told_by(cls, metadata: Mapping[str, str]) -> Change:
        """What a provenance says.

        Raises:
            InputError, LookupError, TypeError, ValueError: It holds an illegal value.
        """
        scaled, head = (read_record(metadata, key) for key in (LIPSCHITZ, ABSTAIN))
        return cls(
            None if scaled is None else Rescaling.from_json(scaled),
            None if head is None else Head.from_json(head),
        )

    def signature(self, original: Any) -> Any:
        """The `onnx.ModelProto`'s inputs and outputs as they should be, as such a proto."""
        expected = type(original)()
        expected.graph.input.extend(original.graph.input)
        expected.graph.output.extend(original.graph.output)
        if self.head is not None:
            declare(expected, self.head)
        return expected

    def comparable(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs as the original should have given them: its classes alone, and logits
        without the factor."""
        found = dict(outputs)
        head, scaled = self.head, self.rescaling
        if head is not None and head.kind == "logit" and head.scores in found:
            found[head.scores] = found[head.scores][:, : head.classes]
        if scaled is not None and scaled.ends_in is None and scaled.scores in found:
            found[scaled.scores] = found[scaled.scores] / scaled.factor
        return found
