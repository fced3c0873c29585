"""Numbers that describe one shape, and statistics that compare sets of them.

``model.evaluation`` imports it; it knows no model and no file. Read :mod:`model.evaluation.measures.descriptors` first.
"""
