"""Annotation campaigns: the label store, the loop, the widget, the command line."""
