"""The way to the Hub: the client and the model card."""
