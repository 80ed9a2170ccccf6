"""What a client of a cluster does: install the runtime, submit runs, stream answers, read reports."""
