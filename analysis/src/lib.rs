//! Classifier, statistics, tables, figures, report.
