"""An ONNX graph as a differentiable `torch.nn.Module`.

    from lipcompile.torchview import torch_view
    view = torch_view("model.hardened.onnx")
    logits = view(images)

`registry.py` names the operators, `operators/` has one file per family, `program.py` turns a
graph into steps, `backward.py` replaces gradients for adaptive attacks, `view.py` is the
module.
"""

from __future__ import annotations

from lipcompile.extras import require_extra

require_extra("audit", "torch")

from lipcompile.torchview.view import TorchView, torch_view  # noqa: E402  (after the check)

__all__ = ["TorchView", "torch_view"]
