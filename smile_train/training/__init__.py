"""Training: one trainer, and what is trained with it."""
