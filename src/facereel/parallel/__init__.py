"""Run work in several processes: a pool, engines (this process or Ray), torch.distributed."""
