"""Reports on a model: its figures, the HTML page with the numbers, and what goes into them.

``model.evaluation.request`` and ``model.cli`` import it; it imports the measurements of ``model.evaluation``. Read
:mod:`model.evaluation.reports.model_report` first.
"""
