"""`python -m jobs.compact`: joins a table's small data files; see `jobs.compaction`."""

if __name__ == "__main__":
    from jobs.cli import main

    main(["compact"])
