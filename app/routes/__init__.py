"""Endpoints: one file a resource, each a few lines over the desk."""
