"""Training data and training.

``model.fitting`` (sampling, optimisers), ``model.evaluation`` and ``model.cli`` import it; nothing that generates cells
does. Read :mod:`model.learning.train` first.
"""
