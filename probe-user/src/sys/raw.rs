//! bpf(2) commands on pins and links. Aya knows no update of a cgroup link, and a link made here
//! reports the plain errno, which tells an exclusive foreign attachment from everything else.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// `enum bpf_cmd` of `include/uapi/linux/bpf.h`.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Command {
    ObjPin = 6,
    ObjGet = 7,
    ObjGetInfoByFd = 15,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// `enum bpf_attach_type`, those that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachType {
    Egress = 1,
    SockOps = 3,
    Connect4 = 10,
    Connect6 = 11,
    SockRelease = 34,
}

/// The leading part of `union bpf_attr`, as the commands above read it; the rest is zero.
#[derive(Default)]
#[repr(C, align(8))]
struct Attributes {
    words: [u32; 16],
}

impl Attributes {
    fn pointer(&mut self, at: usize, pointer: *const u8) {
        let bytes = (pointer as u64).to_ne_bytes();
        let (low, high) = bytes.split_at(4);
        for (word, half) in self.words[at..at + 2].iter_mut().zip([low, high]) {
            *word = u32::from_ne_bytes([half[0], half[1], half[2], half[3]]);
        }
    }
}

fn call(command: Command, attributes: &mut Attributes) -> io::Result<i32> {
    // SAFETY: the attributes outlive the call, and every pointer in them was put there by a caller in
    // this file whose memory outlives it too.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            std::ptr::from_mut(attributes),
            size_of::<Attributes>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn raw(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Pins a map, program or link.
pub fn pin(fd: impl AsFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attributes = Attributes::default();
    attributes.pointer(0, path.as_ptr().cast());
    attributes.words[2] = raw(fd);
    call(Command::ObjPin, &mut attributes).map(drop)
}

/// Opens a pin.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attributes = Attributes::default();
    attributes.pointer(0, path.as_ptr().cast());
    call(Command::ObjGet, &mut attributes).map(owned)
}

/// Attaches a program to a cgroup. The link lives as long as a descriptor or a pin of it.
pub fn attach(program: impl AsFd, cgroup: impl AsFd, kind: AttachType) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes.words[0] = raw(program);
    attributes.words[1] = raw(cgroup);
    attributes.words[2] = kind as u32;
    call(Command::LinkCreate, &mut attributes).map(owned)
}

/// Puts another program under a link, atomically: no event falls between the two.
pub fn replace(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attributes = Attributes::default();
    attributes.words[0] = raw(link);
    attributes.words[1] = raw(program);
    call(Command::LinkUpdate, &mut attributes).map(drop)
}

/// Takes the program off its cgroup before it returns, whatever still holds the link. Letting go of the last
/// pin detaches too, but some time later.
pub fn detach(link: impl AsFd) -> io::Result<()> {
    let mut attributes = Attributes::default();
    attributes.words[0] = raw(link);
    call(Command::LinkDetach, &mut attributes).map(drop)
}

/// What the kernel says of a cgroup link (`struct bpf_link_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    pub id: u32,
    pub program_id: u32,
    /// Inode number of the cgroup's folder; 0 once that cgroup is gone.
    pub cgroup_id: u64,
    pub attach_type: u32,
}

/// `BPF_LINK_TYPE_CGROUP`.
const LINK_TYPE_CGROUP: u32 = 3;

/// Asks about a link; an error of kind `InvalidData` if it is no cgroup link.
pub fn link_info(link: impl AsFd) -> io::Result<LinkInfo> {
    // type, id, prog_id, hole, cgroup_id (2), attach_type; more on newer kernels, which is not copied.
    let mut info = [0u32; 8];
    let mut attributes = Attributes::default();
    attributes.words[0] = raw(link);
    attributes.words[1] = 32;
    attributes.pointer(2, info.as_mut_ptr().cast());
    call(Command::ObjGetInfoByFd, &mut attributes)?;
    if info[0] != LINK_TYPE_CGROUP {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut cgroup_id = [0; 8];
    cgroup_id[..4].copy_from_slice(&info[4].to_ne_bytes());
    cgroup_id[4..].copy_from_slice(&info[5].to_ne_bytes());
    Ok(LinkInfo {
        id: info[1],
        program_id: info[2],
        cgroup_id: u64::from_ne_bytes(cgroup_id),
        attach_type: info[6],
    })
}
