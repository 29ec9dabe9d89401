"""The networks behind the operators, and how their checkpoints are read."""
