"""Training with Lightning: data module, module, callbacks and the pipeline of a run."""
