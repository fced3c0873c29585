"""Training data, training, and the fit of a code to an unseen cell.

``model.evaluation`` and ``model.cli`` import it; nothing that generates cells does. Read :mod:`model.learning.train`
first.
"""
