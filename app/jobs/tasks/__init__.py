"""What the child processes of jobs run, one module for each kind of job."""
