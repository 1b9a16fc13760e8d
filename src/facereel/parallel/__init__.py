"""Several processes: a pool, engines (this process or Ray), torch.distributed."""
