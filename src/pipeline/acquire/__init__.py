"""Imagery, OSM extracts and the demo region: everything that brings raw data onto the region's grid."""
