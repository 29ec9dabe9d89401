"""The verbs of the command line, each a thin function that imports its job when it is called."""
