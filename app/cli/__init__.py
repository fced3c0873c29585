"""The command ``cytosynth``: the HTTP client on the command line, API keys, and ``cytosynth serve``.

Nothing imports it; it may import everything else in ``app``. Read :mod:`app.cli.commands` first.
"""
