"""Frames in; figures, pages and PDFs out. Loads no torch."""
