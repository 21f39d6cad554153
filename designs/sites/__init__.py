"""Sites as candidates: fitted loss surfaces, fill distance."""
