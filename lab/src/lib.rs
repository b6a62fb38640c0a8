//! The embedded mesh: clusters as network namespaces on one machine, real packets, fault injection.
