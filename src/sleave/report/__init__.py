"""Findings for people: tables on screen, and one self-contained HTML page. Made from results alone."""
