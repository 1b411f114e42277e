"""BLIP-2: frozen vision encoder and language model, LoRA on the Q-Former."""
