"""What PEFT's documentation tells users to do, as a whole process: `python peft_merge.py BASE PATCH OUT`."""

import sys

from peft import PeftModel
from transformers import AutoModelForCausalLM

if __name__ == "__main__":
    base, patch, out = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(base)
    PeftModel.from_pretrained(model, patch).merge_and_unload().save_pretrained(out)
