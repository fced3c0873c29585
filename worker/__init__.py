"""Runs the jobs: the queue, the job records, the worker processes and the result files.

Of the product packages only ``app`` imports it; it imports ``model``, never ``app``. Read :mod:`worker.execution`
first, which runs one job.
"""
