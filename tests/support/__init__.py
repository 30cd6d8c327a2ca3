"""Shared builders of the tests: tiny real models, patches and releases. No fakes of our own functions live here."""
