"""Errors as HTTP answers: the table of kinds of problem, and their RFC 9457 documents.

Everything in ``app`` but the settings may import it; it imports error classes only. Read :mod:`app.problems.types`
first.
"""
