"""Strict checks of uploaded files, before any other reader opens them: label volumes, surfaces, models.

``python -m model.upload_checks KIND`` reads one file from standard input in a process of its own, with limits on
memory, time and files, and prints the facts (:mod:`worker.uploads.sandbox` starts it). The readers use Python's
standard library only, but for codecs of TIFF that it lacks. They refuse what a format allows but two programs could
understand differently. ``model.readers`` imports the bounds of :mod:`model.upload_checks.surface_mesh`. Read
:mod:`model.upload_checks.__main__` first.

Promises: no allocation grows with a number that the file merely declares; every refusal is an ``UploadError`` that
says what is allowed.
Does not promise: to read all of TIFF, STL, OBJ, PLY or safetensors; it reads the parts that cells need.
"""
