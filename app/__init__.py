"""PortLLM Registry: keeps LoRA patches and carries them to new releases of their base model."""
