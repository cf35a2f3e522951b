"""What states that tell attempts from purchases are worth: a study in memory."""
