"""The command line: output, settings, logins, transfers that break off and are resumed."""
