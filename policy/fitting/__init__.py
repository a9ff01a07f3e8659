"""Make the belief's constants: densities and rates, from images, corruptions and attacks."""
