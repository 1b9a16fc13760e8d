"""Networks that turn face images into features."""
