"""The Xet protocol, through which huggingface_hub uploads large files."""
