"""A hand-derived gradient, ours or the user's, against autograd and differences; what is wrong with it by name."""

from handgrad.check.gradients import check_gradients
from handgrad.check.report import GradientCheck, GradientReport

__all__ = ["GradientCheck", "GradientReport", "check_gradients"]
