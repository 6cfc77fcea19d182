"""How the pages of docs/ become a site: what they write beyond Markdown, and what of them is made from elsewhere."""
