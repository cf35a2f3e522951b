"""A third design, as small as one can be: parcels are stopped by their weight."""
