"""What stock clients do, each in a process of its own and in whatever environment: no module here imports anything of ours.

A script reads HF_ENDPOINT and HF_TOKEN like every client, takes its wishes as arguments, and prints what it saw as one line of JSON.
"""
