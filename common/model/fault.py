"""The error of a model's files."""


class FolderFault(Exception):
    """A fault of a model's folder or file. The message continues the sentence "... cannot be loaded: "."""
