"""The registry on S3: bytes kept there, releases that lie there, models written there."""
