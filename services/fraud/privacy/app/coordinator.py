"""The ServerApp, by the name that Flower's app gives it."""

from services.fraud.privacy import server_app

app = server_app.app
