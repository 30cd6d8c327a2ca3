"""LoRA, a kind of patch: `config` reads its configuration, `deltas` pairs its factors and matches them to a base."""
