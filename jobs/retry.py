"""`python -m jobs.retry`: `jobs.enrich` for the rows that have an error, and for no others."""

if __name__ == "__main__":
    from jobs.cli import main

    main(["retry"])
