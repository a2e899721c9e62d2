"""Plans carried out: units taken out of a model for good, and proof that nothing else changed."""
