"""A user's own cells, read, examined and made into training sequences; and the models of the method's authors."""
