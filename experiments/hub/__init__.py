"""A trained model for the Hugging Face Hub: weights, settings, and a card of what it has measured."""
