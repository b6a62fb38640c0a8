//! Services translated at `connect(2)`: two small programs on a node's cgroup that put the backend in
//! the place of a virtual address before the socket sees it.
//!
//! The table is part of the program: one comparison per entry, so there is no map to fill and no object to build.

use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::services::Entry;
use crate::error::{During, LabError, Result};
use crate::sys::bpf::{self, Hook};

/// Attaches the translation of `entries` to each of `cgroups`, for sockets that processes below it
/// make from now on. It stays until the cgroup is removed or [`replace`] is called, and suffers other programs beside it.
///
/// # Errors
/// [`LabError::Translation`] if the kernel refuses the programs.
pub fn attach(cgroups: &[PathBuf], entries: &[Entry]) -> Result<()> {
    on_each(cgroups, entries, |program, folder, hook| {
        bpf::attach(program, folder, hook)
    })
}

/// The same in the place of the translation that the cgroups have.
///
/// # Errors
/// As [`attach`]; a cgroup without a translation is refused.
pub(crate) fn replace(cgroups: &[PathBuf], entries: &[Entry]) -> Result<()> {
    on_each(cgroups, entries, |program, folder, hook| {
        bpf::replace(program, folder, hook)
    })
}

fn on_each(
    cgroups: &[PathBuf],
    entries: &[Entry],
    place: impl Fn(&OwnedFd, &File, Hook) -> std::io::Result<()>,
) -> Result<()> {
    for hook in [Hook::Connect4, Hook::Connect6] {
        let program = bpf::load(hook, &program(hook, entries)).map_err(LabError::Translation)?;
        for cgroup in cgroups {
            let folder =
                File::open(cgroup).during(|| format!("open cgroup {}", cgroup.display()))?;
            place(&program, &folder, hook).map_err(LabError::Translation)?;
        }
    }
    Ok(())
}

/// Fields of `struct bpf_sock_addr`, in bytes from its beginning. Addresses and port are in network byte order.
const USER_IP4: u16 = 4;
const USER_IP6: u16 = 8;
const USER_PORT: u16 = 24;
const PROTOCOL: u16 = 36;

/// Registers: the context arrives in `CONTEXT`, the verdict leaves in `VERDICT`; what a call returns comes in `VERDICT`, too.
const VERDICT: u8 = 0;
const CONTEXT: u8 = 1;
const PORT: u8 = 2;
const NEW: u8 = 3;
/// First of up to four words of the address.
const ADDRESS: u8 = 4;
/// Keeps the context over a call, which forgets registers 1 to 5.
const KEPT: u8 = 9;

/// Instructions of the hook's program: for TCP, the first entry with this address and port is applied; always allow.
fn program(hook: Hook, entries: &[Entry]) -> Vec<u64> {
    const ALLOW: u32 = 1;
    let (field, words) = match hook {
        Hook::Connect4 => (USER_IP4, 1),
        Hook::Connect6 => (USER_IP6, 4),
    };
    let places = || (ADDRESS..ADDRESS + words).zip((field..).step_by(4));
    let mut program = vec![
        set(VERDICT, ALLOW),
        load(PORT, PROTOCOL),
        skip_if_equal(PORT, libc::IPPROTO_TCP.cast_unsigned(), 1),
        EXIT,
        load(PORT, USER_PORT),
    ];
    program.extend(places().map(|(register, offset)| load(register, offset)));
    for entry in entries {
        let Some(address) = words_for(hook, entry.address) else {
            continue;
        };
        let writes: Vec<Vec<u64>> = entry
            .backends
            .iter()
            .filter_map(|backend| words_for(hook, *backend))
            .map(|backend| {
                let words = places().zip(backend);
                words
                    .flat_map(|((_, offset), word)| [set(NEW, word), store(offset, NEW)])
                    .chain([set(VERDICT, ALLOW), EXIT])
                    .collect()
            })
            .collect();
        let Some((last, others)) = writes.split_last() else {
            continue;
        };
        let mut apply = Vec::new();
        if !others.is_empty() {
            apply.extend([
                copy(KEPT, CONTEXT),
                CALL_RANDOM,
                remainder(VERDICT, writes.len() as u32),
                copy(CONTEXT, KEPT),
            ]);
        }
        for (number, write) in others.iter().enumerate() {
            apply.push(skip_unless_equal(
                VERDICT,
                number as u32,
                write.len() as u16,
            ));
            apply.extend(write);
        }
        apply.extend(last);
        let port = u32::from(u16::from_ne_bytes(entry.port.to_be_bytes()));
        let comparisons = std::iter::once((PORT, port)).chain((ADDRESS..).zip(address));
        // Each comparison jumps over those that follow it and over what they guard.
        let count = usize::from(words) + 1;
        for (position, (register, wanted)) in comparisons.enumerate() {
            let rest = count - 1 - position + apply.len();
            program.push(skip_unless_equal(register, wanted, rest as u16));
        }
        program.extend(apply);
    }
    program.push(EXIT);
    program
}

/// An address as the hook's context holds it: words in network byte order. An IPv6 socket reaches IPv4
/// at `::ffff:a.b.c.d`; an IPv4 socket never sees IPv6.
fn words_for(hook: Hook, address: IpAddr) -> Option<Vec<u32>> {
    let bytes: Vec<u8> = match (hook, address) {
        (Hook::Connect4, IpAddr::V4(v4)) => v4.octets().into(),
        (Hook::Connect4, IpAddr::V6(_)) => return None,
        (Hook::Connect6, IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets().into(),
        (Hook::Connect6, IpAddr::V6(v6)) => Ipv6Addr::octets(&v6).into(),
    };
    let (words, _) = bytes.as_chunks::<4>();
    Some(words.iter().map(|word| u32::from_ne_bytes(*word)).collect())
}

const EXIT: u64 = instruction(0x95, 0, 0, 0, 0);

/// `register = value`
fn set(register: u8, value: u32) -> u64 {
    instruction(0xb4, register, 0, 0, value)
}

/// `register = context[offset]`, 4 bytes
fn load(register: u8, offset: u16) -> u64 {
    instruction(0x61, register, CONTEXT, offset, 0)
}

/// `context[offset] = register`, 4 bytes
fn store(offset: u16, register: u8) -> u64 {
    instruction(0x63, CONTEXT, register, offset, 0)
}

/// `VERDICT = bpf_get_prandom_u32()`
const CALL_RANDOM: u64 = instruction(0x85, 0, 0, 0, 7);

/// `register %= divisor`, 4 bytes, unsigned
fn remainder(register: u8, divisor: u32) -> u64 {
    instruction(0x94, register, 0, 0, divisor)
}

/// `to = from`
fn copy(to: u8, from: u8) -> u64 {
    instruction(0xbf, to, from, 0, 0)
}

fn skip_if_equal(register: u8, value: u32, skip: u16) -> u64 {
    instruction(0x16, register, 0, skip, value)
}

fn skip_unless_equal(register: u8, value: u32, skip: u16) -> u64 {
    instruction(0x56, register, 0, skip, value)
}

/// One instruction in the kernel's encoding: code, registers, offset, immediate (`struct bpf_insn`).
const fn instruction(code: u8, target: u8, source: u8, offset: u16, immediate: u32) -> u64 {
    let registers = if cfg!(target_endian = "little") {
        source << 4 | target
    } else {
        target << 4 | source
    };
    let (offset, immediate) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
    u64::from_ne_bytes([
        code,
        registers,
        offset[0],
        offset[1],
        immediate[0],
        immediate[1],
        immediate[2],
        immediate[3],
    ])
}
