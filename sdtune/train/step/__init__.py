"""From the tensors of a step to its gradients: draws, objective, forward and backward."""
