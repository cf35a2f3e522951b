"""What the services run on."""
