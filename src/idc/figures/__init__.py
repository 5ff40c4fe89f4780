"""Pictures for the report: one palette, labels beside the data, and the same bytes each time.

`curves.py` draws ROC, precision-recall, thresholds, reliability and the confusion matrix;
`intervals.py` metrics and subgroups; `cases.py` burden and slide maps; `training.py` histories and
learning curves. `style.py` is what all of them look like.
"""
