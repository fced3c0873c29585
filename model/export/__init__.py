"""The file formats, one module each: ``open_writer`` writes a cell's files, ``find_faults`` reads them back.

``model.output`` opens the modules by the names in :data:`model.formats.FORMATS`; nothing else of the product imports
them, and they know no network. Read :mod:`model.output.frame_writers` first; to add a format, see :mod:`model.formats`.
"""
