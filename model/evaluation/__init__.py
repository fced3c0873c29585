"""Evaluation of a model: reconstruction, plausibility and novelty of its cells, and comparison with reference cells.

``model.cli`` and ``benchmarks`` import it; it may import everything below ``model.cli``. Read
:mod:`model.evaluation.comparison` first.
"""
