"""Virtual time: emulated engines and sampled workloads around the very machine and policies of the cluster. Floor 3."""
