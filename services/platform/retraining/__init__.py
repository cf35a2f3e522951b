"""The model lifecycle: training, shadow mode, the gate, and the scheduler."""
