"""What is asked of the model: each objective collates rows and turns a batch into a summed loss."""
