"""Real-time fraud detection: score a card transaction before it is authorised."""
