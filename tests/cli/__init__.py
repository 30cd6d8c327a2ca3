"""What the command line says and does when something is wrong or breaks."""
