"""Models: built, trained, asked and published."""

import logging

import processing  # noqa: F401  # before torch, whose threads it sets

# PEFT imports it where it is installed. It warns of each cast at each step, and tells to install what fetches code.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
