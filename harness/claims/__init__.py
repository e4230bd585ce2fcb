"""Claims of publications as experiments (claims.yaml), and what this machine can do about them."""
