"""Tables of results: plan and execute their runs, and write them."""
