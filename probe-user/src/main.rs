//! The agent: loads the kernel programs, reads their maps, probes its peers, answers for both.

fn main() {}
