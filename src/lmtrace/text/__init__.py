"""What the model is asked to read: annotated sentences, their readers, tokenizers, alignment, and the panel. No torch here."""
