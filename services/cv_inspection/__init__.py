"""Visual quality inspection: the eight steps, a file each."""
