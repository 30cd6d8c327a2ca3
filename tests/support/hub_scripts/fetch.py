"""Downloads one file: REPOSITORY REVISION PATH; prints its sha256, whatever happens on the way."""

import hashlib
import json
import sys
from pathlib import Path

from huggingface_hub import hf_hub_download

repository, revision, path = sys.argv[1:4]
found = hf_hub_download(repository, path, revision=revision)
print(json.dumps({"sha256": hashlib.sha256(Path(found).read_bytes()).hexdigest(), "blob": Path(found).resolve().name}))
