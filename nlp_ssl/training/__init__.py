"""How a step is taken: the loop, optimizers, schedules, checkpoints, interrupts, tracking."""
