"""The kinds of job: one row in the table and one file for each.

``app`` reads the table; ``worker.execution`` runs what it names. Only the files of the kinds enter the heavy half of
``model``, inside functions, so that importing the table stays light. Read :mod:`worker.kinds.table` first.
"""
