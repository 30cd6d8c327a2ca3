"""Durable jobs: the job engine (DBOS), and the child processes that do the work.

May import: services and the layers below; DBOS. Promises: a job runs in a child process without access to database or tokens;
its result is recorded in one transaction, which fails if the job was lost; a crash affects one job.
"""
