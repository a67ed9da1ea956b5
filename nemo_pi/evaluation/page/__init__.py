"""The report as one HTML file: markup that escapes, charts as SVG, and the page that holds them."""
