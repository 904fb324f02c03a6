"""The report of a run: one HTML file that needs nothing else, and its figures as JSON.

write.py        write_report: both files
page.py         what the page says, as plain rows
charts.py       reliability, promises, tiers over time
cuts.py         what the calibrator changed
axes.py         scales and marks that the charts share
theme.py        matplotlib to inline SVG in the page's colours
page.html       the template; style.css its looks
"""

from streams.report.write import write_report

__all__ = ["write_report"]
