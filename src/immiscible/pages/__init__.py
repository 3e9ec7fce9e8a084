"""Pages in HTML that need no other file: one layout, with the parts that all pages share."""
