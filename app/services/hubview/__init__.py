"""What a Hugging Face Hub client sees: repositories, refs, snapshots, listings, model cards, pushes."""
