"""Errors as HTTP answers: the table of problem types, and their RFC 9457 bodies.

Everything in ``app`` may import it; it imports error classes only. Read :mod:`app.problems.types` first.
"""
