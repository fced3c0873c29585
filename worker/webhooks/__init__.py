"""Webhooks: signed messages to an address that a caller names, when a job or a batch has ended.

``worker.liveness`` delivers them, ``app`` uses :mod:`~worker.webhooks.addresses` and :mod:`~worker.webhooks.signing`;
it knows only the job records and errors. Read :mod:`worker.webhooks.delivery` first.
"""
