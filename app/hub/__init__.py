"""The Hugging Face Hub protocol at the root: stock clients read and push with an endpoint and a token of ours.

May import: `app.http`, services and below, FastAPI. Promises: every refusal says `X-Error-Code` and `X-Error-Message`, from which
clients decide; the metadata path never waits for heavy work; what is pinned to a commit never changes; no redirects.
"""
