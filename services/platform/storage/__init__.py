"""The lake on S3, its writer, and stored drift reports."""
