"""Blob stores, on a directory, in memory and on S3, and the LRU cache."""
