//! The vocabulary of aggrik8s: the mesh as declared, and what was observed of it.
//!
//! Pure: no I/O, no clock, no async. `mesh.yaml` text becomes a [`Mesh`] through
//! [`Mesh::parse`]; witnesses report [`observation::Observations`]; `verify` judges
//! the one against the other.

pub mod model;
pub mod observation;

pub use model::*;
