"""Keeps leases of running jobs and ends jobs that hang: lease renewal, shared status, watchdog, housekeeping.

``worker.celery_app`` and ``worker.execution`` import it; nothing in ``app`` does. Read
:mod:`worker.liveness.lease_keeper` first, then :mod:`worker.liveness.housekeeping`.
"""
