//! The vocabulary of aggrik8s: the mesh as declared, and what was observed of it.
//!
//! Pure: no I/O, no clock, no async. `mesh.yaml` text becomes a [`Mesh`] through
//! [`Mesh::parse`]; witnesses report [`observation::Observations`]; `verify` judges
//! the one against the other.

mod errors;
pub mod model;
pub mod observation;
mod tree;

pub use errors::{Errors, Position, Problem, Related};
pub use model::*;

impl Mesh {
    /// Reads and checks a `mesh.yaml`; `source_name` is how the user calls the file in messages.
    ///
    /// # Errors
    /// Every problem of the file at once.
    pub fn parse(source_name: &str, text: &str) -> Result<Self, Errors> {
        let _value = tree::parse(text).map_err(|problem| Errors::new(source_name, vec![problem]))?;
        Err(Errors::new(
            source_name,
            vec![Problem {
                at: Position::default(),
                path: String::new(),
                message: "this build cannot read fields yet".to_owned(),
                hint: None,
                related: Vec::new(),
            }],
        ))
    }
}
