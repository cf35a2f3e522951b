"""Drift statistics, one file each, and the sequential test that watches the mean score."""

from monitoring.drift_statistic import StatisticRegistry

STATISTICS = StatisticRegistry(__name__)
