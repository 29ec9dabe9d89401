"""Fine-tuning: what each published model learns from, as pure functions and small classes.

Losses and collation only; how long, on how many processes and where the data comes from is a job's
business.
"""
