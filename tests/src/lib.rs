//! What the end-to-end tests share.

pub mod agent;
pub mod cgroup;
pub mod container;
pub mod doubled;
pub mod faults;
pub mod foreign;
pub mod hold_rig;
pub mod kernel_scenario;
pub mod kube;
pub mod lab_rig;
pub mod leftovers;
pub mod line_agents;
pub mod line_rig;
pub mod netns;
pub mod path_faults;
pub mod place;
pub mod probe;
pub mod referee;
pub mod rig;
pub mod stamping;
pub mod storm;
pub mod sys;
pub mod verify_rig;
pub mod vm;
