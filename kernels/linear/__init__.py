"""Linear layers on packed weights, with what stands before and after the product in the same pass."""
