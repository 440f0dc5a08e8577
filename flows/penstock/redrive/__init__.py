"""Work with dead letters: plan, redrive, edit, mark, export and import them."""
