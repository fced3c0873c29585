"""Webhooks: signed messages to an address that a caller names, when a job or a batch has ended.

``worker.liveness`` delivers them, ``app`` uses :mod:`~worker.webhooks.addresses` and :mod:`~worker.webhooks.signing`;
only the job records and errors are known here. Read :mod:`worker.webhooks.delivery` first.
"""
