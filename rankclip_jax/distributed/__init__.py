"""Processes, meshes, sharding and collectives."""
