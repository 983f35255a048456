"""Which setting to ship: measures many on one calibration, and chooses by stated rules.

`settings.py` says what is tried, `examples.py` reads the data and divides it, `trial.py`
builds and measures one setting, `strength.py` what thresholds do to each layer, `attacking.py`
runs the audits, `choosing.py` holds the rules, `per_layer.py` the greedy search, and
`sweep.py` is the one place where these meet.
"""

from __future__ import annotations

from lipcompile.extras import require_extra

require_extra("report", "scipy")
