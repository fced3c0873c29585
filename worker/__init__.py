"""Runs the jobs: the queue, the job records, the worker processes and the result files.

Only ``app`` imports it, and it imports nothing of ``app``. Read ``worker/execution.py`` first, which runs one job.
"""
