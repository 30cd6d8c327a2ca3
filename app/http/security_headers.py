"""What browsers are told of every answer that is no page of ours: it is not guessed at, runs nothing and is shown in no frame."""

NO_SNIFF = (b"x-content-type-options", b"nosniff")
INERT = (b"content-security-policy", b"sandbox; default-src 'none'; frame-ancestors 'none'")
