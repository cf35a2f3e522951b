"""The ClientApp, by the name that Flower's app gives it."""

from services.fraud.privacy import client_app

app = client_app.app
