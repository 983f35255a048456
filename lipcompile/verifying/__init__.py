"""Whether a hardened file is the function that its provenance says.

`pair.py` opens the two models; `comparing.py` and `numbers.py` lay two graphs side by side;
`signature.py`, `rebuilding.py`, `untouched.py`, `thresholds.py` and `columns.py` look at the
files, `definitions.py` and `tensors.py` at every forged tensor; `outputs.py` and `speed.py`
run both models; `verify.py` is the one place where these meet.
"""
