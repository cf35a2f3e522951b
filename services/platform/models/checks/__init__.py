"""What is checked of a model file before it serves: who signed it, and what it reads."""
