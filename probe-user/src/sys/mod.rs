//! The kernel side as the agent sees it, and the only module of this crate with `unsafe`.
//!
//! * [`loader`] loads, attaches, keeps, replaces and removes the programs (privileged, short-lived).
//! * [`maps`] reads and writes the maps (no privilege but the group of the pins, or their descriptors: [`source`]).
//! * [`handover`] passes descriptors from process to process.
//! * [`events`] reads the ring buffer, also from tokio.
//! * [`names`] keeps ids of remotes and classes stable over restarts of the agent.
//! * [`selfcheck`] is `--check`: a scratch cgroup, one connection, the counted event.
//! * [`socket`] has the socket options of path measurements (no privilege).
#![allow(
    unsafe_code,
    reason = "bpf(2), Aya's plain-old-data promises and socket options live here"
)]

pub mod cgroup;
pub mod events;
pub mod handover;
pub mod loader;
pub mod maps;
pub mod memory;
pub mod names;
pub mod preflight;
pub mod raw;
pub mod selfcheck;
pub mod socket;
pub mod source;

/// The committed object, built by `cargo xtask ebpf`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../prebuilt/probe.bpf.o");

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs, path::Path};

    use sha2::{Digest as _, Sha256};

    const PROVENANCE: &str = include_str!("../../prebuilt/probe.bpf.toml");

    fn recorded(key: &str) -> &'static str {
        PROVENANCE
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))
            .unwrap_or_else(|| panic!("no `{key}` in the provenance"))
            .trim_matches('"')
    }

    fn sha256(bytes: &[u8]) -> String {
        Sha256::digest(bytes)
            .iter()
            .fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
    }

    fn collect(root: &Path, path: &str, files: &mut Vec<String>) {
        let full = root.join(path);
        if full.is_file() {
            files.push(path.to_owned());
            return;
        }
        for entry in fs::read_dir(&full).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            collect(root, &format!("{path}/{name}"), files);
        }
    }

    #[test]
    fn the_committed_object_is_the_recorded_one() {
        assert_eq!(sha256(super::OBJECT), recorded("object_sha256"));
    }

    #[test]
    fn the_sources_are_those_that_the_object_was_built_from() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut files = Vec::new();
        for input in [
            "probe-common/Cargo.toml",
            "probe-common/src",
            "probe-ebpf/Cargo.toml",
            "probe-ebpf/src",
        ] {
            collect(root, input, &mut files);
        }
        files.sort();
        let listing = files.iter().fold(String::new(), |mut text, path| {
            let hash = sha256(&fs::read(root.join(path)).unwrap());
            let _ = writeln!(text, "{hash}  {path}");
            text
        });
        assert_eq!(
            sha256(listing.as_bytes()),
            recorded("inputs_sha256"),
            "kernel sources changed: run `cargo xtask ebpf` and commit `probe-user/prebuilt`"
        );
    }
}
