"""Rescaling: the weights and biases of a network, so that its product bound becomes L.

Every tensor t of the network gets a factor g(t) > 0 and becomes g(t) * t; that of the input is
1, that of the logits L / (product bound), so that every decision stays as it was. `rules.py`
knows which operators allow that, and what has to be edited; `homogeneous.py` reads a network
with them into groups of tensors that share a factor; `factors.py` chooses the factors;
`plan.py` joins them to a `Rescaling`, which `rescaling.py` applies and checks on data. The
rewrite itself is `passes/rescale_constants.py`.
"""
