"""Metrics, the table, the report."""
