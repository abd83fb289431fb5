"""What people say about images: labels given elsewhere, and the page for reviewing photos."""
