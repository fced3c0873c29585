"""The workshop: living-cell shapes from a trained auto-decoder; knows nothing of web or queue."""

__version__ = "0.1.0"
