"""Trained models: what they predict, and the one form in which they are kept."""

from handgrad.models.model import Answers, Model, answer, probabilities
from handgrad.models.saving import load, save

__all__ = ["Answers", "Model", "answer", "load", "probabilities", "save"]
