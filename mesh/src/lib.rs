//! The vocabulary of aggrik8s: the mesh as declared, and what was observed of it.
//!
//! Pure: no I/O, no clock, no async. `mesh.yaml` text becomes a [`Mesh`] through
//! [`Mesh::parse`]; witnesses report [`observation::Observations`]; `verify` judges
//! the one against the other.

mod check;
mod classify;
pub mod discovered;
mod document;
mod endpoint;
mod errors;
pub mod measurement;
pub mod model;
pub mod observation;
mod read;
pub mod rules;
mod spec;
mod tree;
mod units;

pub use classify::Remote;
pub use discovered::{Discovered, Effective};
pub use endpoint::EndpointError;
pub use errors::{Errors, MAX_LISTED, Position, Problem, Related};
pub use model::*;
pub use rules::{Access, Day, Gravity, KnownCheck, PolicyRule, Rules, Waiver, WaiverScope};

/// First line of a written `mesh.yaml`, with which editors find the schema.
const SCHEMA_LINE: &str = "# yaml-language-server: $schema=https://raw.githubusercontent.com/Aggrik8s-net/aggrik8s/main/schema/mesh.schema.json\n";

impl Mesh {
    /// Reads and checks a `mesh.yaml`; `source_name` is how the user calls the file in messages.
    ///
    /// # Errors
    /// Every problem of the file at once.
    pub fn parse(source_name: &str, text: &str) -> Result<Self, Errors> {
        Self::parse_knowing(source_name, text, None)
    }

    /// The same, and checks that it names must be among `checks`.
    ///
    /// # Errors
    /// Every problem of the file at once.
    pub fn parse_knowing(
        source_name: &str,
        text: &str,
        checks: Option<&[KnownCheck<'_>]>,
    ) -> Result<Self, Errors> {
        let document =
            tree::parse(text).map_err(|problem| Errors::new(source_name, vec![*problem]))?;
        let report = &mut read::fields::Report::default();
        let spec = read::spec(report, document);
        match check::mesh(report, &spec, checks) {
            Some(mesh) => Ok(mesh),
            None => Err(Errors::new(
                source_name,
                std::mem::take(&mut report.problems),
            )),
        }
    }

    /// The mesh as a `mesh.yaml`, from which [`Mesh::parse`] makes an equal mesh.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let document = document::MeshDocument::from(self);
        let body = serde_saphyr::to_string(&document)
            .expect("the document has only text, numbers, lists and structs");
        format!("{SCHEMA_LINE}{body}")
    }
}

/// JSON Schema of `mesh.yaml`, draft 2020-12.
#[must_use]
pub fn json_schema() -> schemars::Schema {
    document::json_schema()
}
