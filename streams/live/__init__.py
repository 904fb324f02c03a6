"""The live terminal view: what the stream does, as it does it; plain lines where there is no terminal.

view.py     LiveView: when to draw
screen.py   the whole picture, fitted to the terminal
panels.py   its parts
strip.py    a series as one line of blocks
"""

from streams.live.view import LiveView

__all__ = ["LiveView"]
