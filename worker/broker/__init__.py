"""The Redis server that jobs are kept in: an embedded one, and the check that a configured one loses nothing.

Everything that opens a connection may import it; it knows no job. Read :mod:`worker.broker.embedded` first.
"""
