"""What candidates made of torch share."""
