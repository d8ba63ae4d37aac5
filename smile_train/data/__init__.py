"""Training data: synthetic clips, written corpora and natural video."""
