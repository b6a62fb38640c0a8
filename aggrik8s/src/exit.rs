//! Exit codes of every command. A contract: docs/cli.md, tested one by one.

/// All that was asked for holds.
pub const HOLDS: u8 = 0;
/// A gate failed.
pub const FAILED: u8 = 1;
/// Usage, configuration or unexpected error.
pub const USAGE: u8 = 2;
/// Undecided: too few samples, or somebody could not be reached.
pub const UNDECIDED: u8 = 3;
/// Stopped part-way; the same command resumes.
pub const STOPPED: u8 = 4;
/// Somebody else holds the lock.
pub const LOCKED: u8 = 5;
/// SIGINT before anything was decided.
pub const INTERRUPTED: u8 = 130;
/// SIGTERM before anything was decided.
pub const TERMINATED: u8 = 143;
