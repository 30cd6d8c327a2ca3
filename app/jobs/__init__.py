"""Durable work: the job engine (DBOS), and the child processes that do it.

May import: services and below; DBOS. Promises: a job is a child process without database or tokens, its result is
recorded in one transaction that fails if the job was lost, and a crash is one job's.
"""
