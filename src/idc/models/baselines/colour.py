"""The colour baseline: what mean and SD of red, green and blue alone can tell.

A network that does not beat it has learnt stain, not tissue; it stands beside every result.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def fit_colour_baseline(statistics: np.ndarray, labels: np.ndarray) -> Pipeline:
    """Fit the logistic regression on (patches, 6) statistics of training patches."""
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    return model.fit(statistics, labels)
