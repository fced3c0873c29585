"""Files on disk: results published whole or not at all, contents kept once, and whether the disk accepts writes.

``worker.jobs``, ``worker.execution`` and ``app`` may import it; it knows no job record and no Redis. Read
:mod:`worker.storage.artifacts` first.
"""
