"""What a file from outside must be before anything else reads it: label volumes, surfaces, models.

``python -m model.upload_checks KIND`` reads one file from standard input in a process of its own, with limits on
memory, time and files, and prints what it found (:mod:`worker.uploads.sandbox` starts it). The readers here use
Python's standard library only and read strictly: what the formats allow and two programs could understand differently
is refused.

Promises: no allocation grows with a number that the file merely claims; every refusal is an ``UploadError`` that says
what is allowed.
Does not promise: to read everything that is valid TIFF, STL, OBJ, PLY or safetensors; the parts that cells need.
"""
