"""What runs where and when: a policy proposes, this checks the proposal against the contract and performs it.

It owns the queues and what goes with an assignment. Why calls come and go the machine knows, and `run_life` how
runs begin and end.
"""
