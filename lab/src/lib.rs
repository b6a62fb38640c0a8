//! The embedded mesh: clusters as network namespaces on one machine, real packets, fault injection.
//!
//! A [`topology`] is planned from a mesh, then built with iproute2 and nftables; every packet between
//! clusters crosses the user-space [`mod@line`]; the lab's processes are this program again, in a [`role`].

mod cgroup;
mod down;
mod error;
mod exec;
pub mod fault;
pub mod line;
mod line_setup;
mod mesh_file;
mod net;
mod options;
mod paths;
mod process;
mod ready;
pub mod role;
mod state;
mod status;
pub mod sys;
pub mod topology;
mod up;
mod workload;

pub use down::down;
pub use error::LabError;
pub use exec::exec;
pub use net::{Entry, OuterDf, Services, translate_at_connect};
pub use options::{Cancel, Options, PathDelay};
pub use paths::{RunDir, labs};
pub use process::{Process, ProcessSpec};
pub use state::{Phase, State};
pub use status::{
    ClusterStatus, FaultStatus, PlaceStatus, ProcessStatus, ServiceStatus, Status, status,
};
pub use up::{Up, up};
pub use workload::{NODE_METRICS_PORT, POD_METRICS_PORT};
