"""The replicas: the slots that they and their cards have, what holds these, what waits for them, what comes next.

It owns which attempt is where. Which call goes to which replica is decided above, and runs are unknown here.
"""
