//! NDVI tiles: the request and reply format of the workload that the mesh exists for.
