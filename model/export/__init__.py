"""Files that a result consists of: surfaces, label volumes, pictures, the manifest, and their verification.

``model.synthesis`` and the command line import it; it gets surfaces and labels and knows no network. Read
:mod:`model.export.exporter` first.
"""
