"""Sites, distances between them, and surfaces of losses over them."""
