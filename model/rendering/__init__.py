"""Pictures of surfaces, and colours of labels.

``model.export`` and ``model.evaluation`` import it; it gets surfaces and labels, and writes no result. Read
:mod:`model.rendering.render` first.
"""
