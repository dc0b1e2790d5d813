"""Other libraries: their files, in and out, and their trainers."""
