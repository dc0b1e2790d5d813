"""What each verb does with its arguments: a module for each, with its `run`."""
