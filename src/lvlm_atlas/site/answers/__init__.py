"""What the pages answer by themselves: predictions for many requests, as scripts that load without a server."""
