"""The Hub protocol in one process: repositories, files, commits and pushes as they are on the wire."""
