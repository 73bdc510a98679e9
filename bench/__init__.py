import os

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it once, when a module here imports it
