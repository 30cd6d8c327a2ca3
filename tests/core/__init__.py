"""Tests of `app.core`: formats, arithmetic, merge on read. No server, no database."""
