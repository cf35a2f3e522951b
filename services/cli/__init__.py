"""The `whiteboard` command: thin, a module a verb."""
