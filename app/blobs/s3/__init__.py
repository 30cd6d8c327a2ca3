"""The S3 blob store: client, streaming sources and targets, copies, direct links, erasure and object versions."""
