"""The page of a run: one file that needs nothing else, made of metrics.json's numbers and of pictures of them."""

from handgrad.app.report.page import write_report

__all__ = ["write_report"]
