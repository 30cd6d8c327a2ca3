"""transformers and PEFT: FAMILY PATCH. Loads the merged model, base and patch, and compares what they compute."""

import json
import sys

import peft
import torch
import transformers
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

family, patch = sys.argv[1:3]
base, merged = f"base/{family}", f"{patch}.merged"
seen = {"versions": [transformers.__version__, peft.__version__]}
torch.set_num_threads(1)
ids = torch.arange(3, 40).reshape(1, -1)


def logits(model):
    with torch.no_grad():
        return model.eval()(ids).logits.float()


def apart(one, other):
    return float((one - other).abs().max())


model = AutoModelForCausalLM.from_pretrained(merged, revision="v2")
pinned = AutoModelForCausalLM.from_pretrained(merged, revision="v2@1")
bare = AutoModelForCausalLM.from_pretrained(base, revision="v2")
merged_logits, base_logits = logits(model), logits(bare)
seen["pinned"] = apart(logits(pinned), merged_logits)
adapted = PeftModel.from_pretrained(bare, patch)
seen["scale"] = float(merged_logits.abs().max())
seen["peft"] = apart(logits(adapted), merged_logits)
seen["effect"] = apart(base_logits, merged_logits)
auto = AutoPeftModelForCausalLM.from_pretrained(patch, revision="1@v2")
seen["auto_peft"] = apart(logits(auto), merged_logits)
try:  # the adapter's own repository, whose configuration leads to the base
    through = AutoModelForCausalLM.from_pretrained(patch, revision="1@v2")
    seen["through"] = apart(logits(through), merged_logits)
except Exception as error:
    seen["through"] = f"{type(error).__name__}: {error}"
if "tokenizer" not in sys.argv[3:]:  # of another version than wrote it, a tokenizer may not be readable
    tokenizer = AutoTokenizer.from_pretrained(merged, revision="v2")
    text = "the registry's own words"
    seen["tokenizer"] = tokenizer.decode(tokenizer(text)["input_ids"]) == text
    pipe = transformers.pipeline("text-generation", model=merged, revision="v2@1", tokenizer=tokenizer)
    seen["pipeline"] = len(pipe("a", max_new_tokens=2, do_sample=False)[0]["generated_text"]) > 0
print(json.dumps(seen))
