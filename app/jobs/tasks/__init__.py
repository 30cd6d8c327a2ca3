"""Tasks: the code that child processes of jobs run, one module for each kind of job."""
