"""Files of a result: surfaces, label volumes, pictures, the manifest, and their verification.

``model.synthesis``, ``model.evaluation`` (pictures) and the command line import it; it gets surfaces and labels and
knows no network. Read :mod:`model.export.exporter` first, then :mod:`model.export.frame_writers`; to add a format, see
:mod:`model.formats`.
"""
