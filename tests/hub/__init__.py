"""The Hub protocol: in this process for what is on the wire, and with stock clients against a service of its own."""
