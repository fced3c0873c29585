"""How good a model is: reconstruction, plausibility and novelty of its cells, and comparison with reference cells.

Only ``model.cli`` and ``benchmarks`` import it; it may import everything else in ``model``. Read
:mod:`model.evaluation.comparison` first.
"""
