"""The front desk: HTTP in, JSON and files out."""
