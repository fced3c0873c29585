"""What keeps a worker's jobs alive and ends those that hang: lease renewal, shared status, watchdog, housekeeping.

``worker.celery_app`` and ``worker.execution`` import it; nothing in ``app`` does. Read
:mod:`worker.liveness.lease_keeper` first, then :mod:`worker.liveness.housekeeping`.
"""
