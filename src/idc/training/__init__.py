"""Learning: class weights, device, the loop, and its checkpoints."""
