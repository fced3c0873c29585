"""The commands of ``python -m model`` with many options: the user's own cells, and evaluation.

Only ``model.__main__`` imports it; it may import everything else in ``model``. Read :mod:`model.__main__` first.
"""
