"""The back office: queue, job records and files."""
