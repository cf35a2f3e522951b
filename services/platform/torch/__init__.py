"""What candidates made with torch share. Only training imports this package."""
