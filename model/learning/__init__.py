"""Training data, training, and the fit of a code to an unseen cell.

The command line and ``model.evaluation`` import it; nothing that generates cells does. Read :mod:`model.learning.train`
first.
"""
