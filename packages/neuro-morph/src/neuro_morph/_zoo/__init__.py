"""Small readable networks of the well-known families, to test and measure growth on."""
