"""Files that clients upload: storing them, inspecting them in a sandboxed child process, and models made of them.

``app`` and ``worker.execution`` may import it; it knows no job record. Read :mod:`worker.uploads.store` first.
"""
