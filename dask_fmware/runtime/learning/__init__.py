"""What is learnt from what has happened: lengths, branches and pauses of workflows, the pace of replicas.

It takes what it is told and answers from it. It knows no record, slot or queue, and decides nothing.
"""
