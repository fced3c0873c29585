"""Synthesis of living-cell shapes with a trained auto-decoder; knows no web framework and no queue.

Read :mod:`model.synthesis` first. ``worker`` imports the library; ``app`` may import ``spec``, ``formats``, ``card``
and ``errors`` only, which load no numerical library. This module holds the version and nothing else, so that importing
``model`` costs nothing.
"""

__version__ = "0.1.0"
