"""The Hugging Face Hub protocol: stock clients read and push with `HF_ENDPOINT` and `HF_TOKEN`.

May import: `app.http`, services and the layers below, FastAPI. Promises: every refusal has the headers `X-Error-Code` and
`X-Error-Message`, which clients read; metadata requests never wait for expensive work; the files of a commit never change;
there are no redirects.
"""
