"""Request and response bodies of the REST API, one module for each noun."""
