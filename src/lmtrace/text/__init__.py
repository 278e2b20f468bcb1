"""What the model is asked to read: annotated sentences, readers, tokenizers, alignment, the panel. No torch here."""
