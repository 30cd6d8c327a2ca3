"""Other versions of the clients than those that the tests themselves run on: `make clients` builds an environment for each."""
