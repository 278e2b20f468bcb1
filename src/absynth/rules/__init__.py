"""What a grammar is made of: categories, frames, patterns, words, the tables compiled from them, and the files that say them."""
