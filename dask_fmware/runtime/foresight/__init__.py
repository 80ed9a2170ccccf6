"""What is to come: how long calls and runs still take, which of them can be in time, and which runs may come.

It puts runs, replicas and what was learnt together for policies and people, and decides nothing.
"""
