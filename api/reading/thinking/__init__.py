"""The forms in which models write reasoning: one record for each, and how a model's form is recognised."""
