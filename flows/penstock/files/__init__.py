"""Flow files: documents with places, and the shapes that check them."""
