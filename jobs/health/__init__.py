"""What `tagline doctor` looks at: the machine, and what a job's config names."""
