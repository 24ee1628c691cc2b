"""A synthetic region that stands in for downloads: imagery tiles, an OSM extract, a land cover and the truth."""
