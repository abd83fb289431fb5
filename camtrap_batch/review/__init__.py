"""What people say about images: labels that they gave elsewhere, and the page for reviewing photos."""
