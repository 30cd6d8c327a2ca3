"""One router per thing that clients ask for."""
