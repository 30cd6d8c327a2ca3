"""The view of jobs that users see, and queues without a worker."""
