"""Stock clients of the Hugging Face Hub against a running service."""
