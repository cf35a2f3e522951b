"""NATS JetStream: connections, ordered consumers, the outbox, message validation."""
