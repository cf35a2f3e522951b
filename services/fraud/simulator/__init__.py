"""The world outside the design: customers, merchants, fraudsters, and the payment gateway.

Everything here is simulated, and says so. The same seed gives the same bytes.
"""
