//! What the end-to-end tests share.

pub mod cgroup;
pub mod container;
pub mod foreign;
pub mod netns;
pub mod referee;
pub mod rig;
pub mod storm;
pub mod sys;
pub mod vm;
