"""Raw maps to a paper's comparison table: acquisition, labels, chips, training, evaluation, report."""

__version__ = "0.1.0"
