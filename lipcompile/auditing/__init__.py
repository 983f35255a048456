"""Evidence: what attacks that know of the defence do to a model and to its hardened version.

`data/` reads labelled images, `victim.py` is a model as it is attacked and as it is deployed,
`attacks/` finds candidates, `campaign.py` runs them along every adaptive path and has ONNX
Runtime judge them, `masking/` looks for signs that the attacks were fooled, `audit.py` is the
one place where these meet.
"""

from __future__ import annotations

from lipcompile.extras import require_extra

require_extra("audit", "torch", "scipy", "pyautoattack")
