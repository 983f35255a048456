"""Abstaining: a classifier that says itself which of its answers are certified (GloRo heads).

`options.py` is what a user asks for; `head.py` finds the scores that it is about, and turns
Lipschitz bounds into the numbers of a head; `wrapping.py` puts the head on a model and takes
it off; `reference.py` is its definition in NumPy, with which a model is compared before it is
written. The rewrites themselves are `passes/add_abstention.py` and
`passes/remove_abstention.py`.
"""
