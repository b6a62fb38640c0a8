//! The Kubernetes objects that put the agents into a cluster: values in, objects out. The chart in `charts/aggrik8s`
//! renders the same objects by helm; a test holds the two against each other. Values, their defaults and their
//! schema are the chart's own files. No I/O, no cluster: who applies the objects is not known here.

mod image;
mod objects;
mod pods;
mod values;
mod yaml;

pub use image::{BadImage, ImageRef};
pub use objects::{RenderError, check_mesh, objects};
pub use values::{
    Agent, Api, CertManager, Holder, Image, Issuer, Labels, Map, Metrics, Monitor, NamespaceValues,
    NetworkPolicy, NodePlane, PullPolicy, Seccomp, SeccompProfile, ServiceAccount, Tls, TlsSource,
    Values, ValuesError, schema,
};
pub use yaml::to_yaml;

/// Name of the release, as `helm install NAME` would say; the objects' own names are fixed.
pub const NAME: &str = "aggrik8s";
/// The agents' user and group.
pub const AGENT_ID: u32 = 65532;
