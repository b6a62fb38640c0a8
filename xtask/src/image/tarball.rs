//! Archives whose bytes depend on names, modes and contents only.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::Result;
use flate2::{Compression, GzBuilder};

/// Files by path, with their modes; their folders come before them. All belong to root and have no time.
pub(crate) fn tar(files: &[(String, u32, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut folders = BTreeSet::new();
    for (path, mode, content) in files {
        for (end, _) in path.match_indices('/') {
            let folder = &path[..=end];
            if folders.insert(folder.to_owned()) {
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                archive.append_data(&mut header, folder, std::io::empty())?;
            }
        }
        let mut header = header(tar::EntryType::Regular, *mode, content.len() as u64);
        archive.append_data(&mut header, path, content.as_slice())?;
    }
    Ok(archive.into_inner()?)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    // 255: on no system in particular.
    let builder = GzBuilder::new().mtime(0).operating_system(255);
    let mut writer = builder.write(Vec::new(), Compression::new(6));
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}
