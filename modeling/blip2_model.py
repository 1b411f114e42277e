"""Adapters saved by version 0.1 name this module as the home of their base model's class."""

from modeling.blip2.network import Blip2ForQuestionAnswering

__all__ = ["Blip2ForQuestionAnswering"]
