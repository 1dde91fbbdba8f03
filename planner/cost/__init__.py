"""Seconds: hardware as data, the α–β model of collectives, the roofline of local work."""
