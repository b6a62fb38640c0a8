//! Runs inside a container and reports, one line each, what the kernel lets it do: `<attempt> ok` or
//! `<attempt> <errno>`. With a pin folder as argument it also reads and writes the pinned maps: `confined [PINS]`.
#![expect(clippy::print_stdout, reason = "its report is its purpose")]

use std::fmt::Display;
use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, setuid};
use probe_common::{Counter, Direction, RemoteId};
use probe_user::sys::maps::{Maps, MapsError};
use socket2::{Domain, Socket, Type};
use tests::sys;

/// `r0 = 1; exit`.
const RETURN_1: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
const SOCK_OPS: (u32, u32) = (13, 3);

fn main() {
    report("map_create", errno(sys::create_map()));
    report(
        "prog_load",
        errno(sys::load_program("a8t", SOCK_OPS.0, SOCK_OPS.1, &RETURN_1)),
    );
    report(
        "packet_socket",
        errno(Socket::new(Domain::PACKET, Type::DGRAM, None)),
    );
    report("write_root", errno(File::create("/written")));
    report("become_root", setuid(Uid::from_raw(0)));
    report("user_namespace", unshare(CloneFlags::CLONE_NEWUSER));
    let (none, proc) = (None::<&str>, Some("proc"));
    report("mount", mount(none, "/proc", proc, MsFlags::empty(), none));
    if let Some(pins) = std::env::args_os().nth(1) {
        match use_maps(Path::new(&pins)) {
            Ok(()) => report("maps", Ok(())),
            Err(error) => println!("maps {}", chain(&error)),
        }
    }
}

/// Reads every kind of map, and puts a prefix into the longest-prefix map, replaces it and takes it out again.
fn use_maps(pins: &Path) -> Result<(), MapsError> {
    let mut maps = Maps::open(pins)?;
    let series = maps.series()?;
    let initiated = series
        .iter()
        .filter(|(key, _)| key.direction() == Direction::Initiator);
    let established: u64 = initiated
        .map(|(_, data)| data.counter(Counter::Established))
        .sum();
    println!("established {established}");
    println!("counters {}", maps.counters()?.len());
    let before = maps.set_prefixes(&[])?;
    println!("removed {}", before.removed);
    for remote in [RemoteId::FIRST_NAMED, RemoteId::FIRST_NAMED + 1] {
        let prefix = "198.51.100.0/24".parse().expect("a prefix");
        let changed = maps.set_prefixes(&[(prefix, RemoteId(remote))])?;
        println!("written {}", changed.written);
    }
    println!("prefixes {}", maps.prefix_entries()?.len());
    let after = maps.set_prefixes(&[])?;
    println!("removed {}", after.removed);
    maps.events()?;
    Ok(())
}

fn errno<T>(result: std::io::Result<T>) -> Result<(), Errno> {
    let unknown = Errno::UnknownErrno;
    result
        .map(drop)
        .map_err(|error| error.raw_os_error().map_or(unknown, Errno::from_raw))
}

fn report(attempt: &str, result: Result<(), Errno>) {
    match result {
        Ok(()) => println!("{attempt} ok"),
        Err(errno) => println!("{attempt} {errno:?}"),
    }
}

fn chain(error: &dyn std::error::Error) -> impl Display {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
