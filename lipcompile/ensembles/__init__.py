"""Transformation ensembles: a classifier's mean over views of its image.

`views.py` is the language and the definition of a view; `image_input.py` and `classifier.py`
find what is averaged over and what is averaged; `plan.py` joins them to an `Ensemble`, one
for each way that `one_batch.py` allows; `wrapping.py` puts it around a model and takes it off;
`reference.py` computes what a wrapped model should give, and `trying.py` takes the first way
that gives it. The rewrites themselves are `passes/wrap_ensemble.py` and
`passes/unwrap_ensemble.py`.
"""
