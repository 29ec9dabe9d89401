"""The drawn scenes, and the small checkpoints trained on them that ship with the project."""
