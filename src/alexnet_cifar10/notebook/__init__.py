"""What only a notebook calls. Nothing is imported here: the check of a parameter waits for no other file's libraries."""
