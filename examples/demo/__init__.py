"""A demo of flask_aio_core: one ordinary Flask application with five pages to click."""
