"""What retraining learns where declined transactions have no label."""
