"""What two or more experiments share, and nothing that knows an experiment."""
