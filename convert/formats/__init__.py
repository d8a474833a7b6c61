"""What the names in a checkpoint mean; one file per format."""
