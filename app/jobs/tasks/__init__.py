"""What the child process of a job runs: one module per kind of job."""
