"""What the commands share: engines, systems under test, loads, faults, pictures, the record of the machine."""
