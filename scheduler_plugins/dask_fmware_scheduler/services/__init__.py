"""Parts of the runtime that live beside the router: each one a file, all listed in `registry`.

A service may answer RPCs of clients, take messages of workers, watch the machine as an observer, and
run in the background. It never routes.
"""
