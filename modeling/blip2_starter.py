"""Adapters saved by version 0.1 name this module as the home of the starter's class."""

from modeling.blip2.starter import Blip2StarterForQuestionAnswering

__all__ = ["Blip2StarterForQuestionAnswering"]
