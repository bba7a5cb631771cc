"""A checked body -> a submission: sampling, constraints, queue options, and metadata of the answer."""
