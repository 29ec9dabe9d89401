"""When and where it runs: the command line, and the only place that knows Ray."""
