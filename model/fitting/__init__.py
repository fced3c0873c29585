"""The fit of a latent code to an unseen cell, and the reconstruction of a cell from such a fit.

``worker.kinds``, ``model.evaluation`` and ``model.cli`` import it; nothing that generates or trains does. Read
:mod:`model.fitting.fit` first, then :mod:`model.fitting.latent_search`.
"""
