"""What people say of images: labels that they gave elsewhere, and the page on which they look at photos."""
