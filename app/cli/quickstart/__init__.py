"""The quickstart: the main job of the product, played through on real input with small models.

What lives here: real text from the Python installation (`sources`, `corpus`), a tokenizer (`tokenizer`), small Llama
models and LoRA patches trained on that text (`models`), the labelling task (`task`), measurements (`evaluate`) and
every size in one place (`scale`).

What may be imported: `scale`, `sources` and `corpus` are free of torch and transformers; the others are not, so
whoever builds a command line imports them inside the command, never at the top.

What it promises: same installation, same scale, same seed give the same files and the same split; held-out files are
never trained on, neither by the tokenizer nor by a model nor by a patch; no number is tuned.
"""
