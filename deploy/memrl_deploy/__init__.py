"""The online side: policies brought from torch to a file, and from a file to the machine."""
