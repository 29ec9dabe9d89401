"""Makes the parts of a plan the table's data files, in one atomic step."""

from jobs.shards import Plan


def commit(plan: Plan) -> int:
    """Commits a plan whose every shard has its part; twice is once.

    Returns:
        The table's version that holds the plan.

    Raises:
        RunError: a part is absent or has another number of rows, or the table has moved on in what
            this plan touches; nothing was written and the same command plans anew.
    """
    raise NotImplementedError
