"""Image-text-to-text models of transformers: all frozen, LoRA on the language model."""
