"""Names, states, the error catalogue and other rules that need no database; what they mean over HTTP."""
