"""What is known of a model that is not loaded: its task, its card and its sizes, from its files."""
