"""A report of results: one page that needs nothing else, neither a network nor other files."""

from __future__ import annotations

from probe.report.page import report_html, write_report

__all__ = ["report_html", "write_report"]
