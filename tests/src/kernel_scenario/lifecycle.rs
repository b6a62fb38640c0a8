//! Before, again and not at all: old sockets, a second load, refusals, the self-check.

use std::fs::File;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use caps::Capability;
use probe_common::{Counter, Direction, GlobalCounter, Origin, RemoteId};
use probe_user::sys::loader::{self, Action, LoadError, Options};
use probe_user::sys::preflight::PreflightError;
use probe_user::sys::{OBJECT, selfcheck};

use super::{Inside, Place, Stage, eventually, wire, with_capabilities};
use crate::foreign::{Foreign, Hook};
use crate::{leftovers, sys};

/// Connections made before the load are found by their first packet and counted from then on.
pub(super) fn old_sockets(place: &Place) -> Result<()> {
    let inside = Inside::enter(place, "old")?;
    let listener = wire::listen4()?;
    let to = listener.local_addr()?;
    let (mut client, mut server) = wire::pair(&listener, to)?;
    wire::transfer(&mut client, &mut server, 5000)?;
    let silent = wire::pair(&listener, to)?;
    let stage = Stage::around(inside, |_| ())?;
    wire::transfer(&mut client, &mut server, 300)?;
    wire::transfer(&mut server, &mut client, 70_000)?;
    let seen = |count| -> Result<()> {
        for counter in [
            GlobalCounter::OldSocketsSeen,
            GlobalCounter::OldSocketsCovered,
        ] {
            let now = stage.global(counter)?;
            ensure!(
                now == count,
                "`{}` is {now}, expected {count}",
                counter.name()
            );
        }
        Ok(())
    };
    seen(2)?;
    drop(client);
    wire::at_end(&server)?;
    drop(server);
    stage.old_ones_ended(2)?;
    let sum = stage.sum(Direction::Unknown, Origin::Traffic)?;
    let received = sum.counter(Counter::BytesReceived);
    // The segment that reveals a socket may itself be the first data: what it carried before is not ours.
    ensure!(
        (70_000..=70_300).contains(&received),
        "{received} bytes received"
    );
    // Alive but silent is unknowable.
    seen(2)?;
    drop(silent);
    eventually(|| seen(4))?;
    stage.old_ones_ended(4)?;
    for direction in [Direction::Initiator, Direction::Acceptor] {
        stage.expect(direction, Origin::Traffic, &[])?;
    }
    stage.nothing_lost()
}

/// The same object is kept, another one is put in place; connections live through it, counts go on.
pub(super) fn load_again(place: &Place) -> Result<()> {
    let stage = Stage::new(place, "again")?;
    let listener = wire::listen4()?;
    let to = listener.local_addr()?;
    let held = wire::pair(&listener, to)?;
    let options = Options::new(stage.inside.cgroup.path());
    let kept = loader::load(&options, stage.probe.pins())?;
    ensure!(kept.action == Action::Kept, "{kept:?}");
    let other = Options {
        object: [OBJECT, &[0; 8]].concat().into(),
        series_cap: 7,
        states: 7,
        ..options.clone()
    };
    let replaced = loader::load(&other, stage.probe.pins())?;
    ensure!(
        replaced.action == Action::Replaced && replaced.object != kept.object,
        "{replaced:?}"
    );
    ensure!(
        replaced.notes.len() == 2,
        "neither limit can have changed: {:?}",
        replaced.notes
    );
    ensure!(
        loader::load(&other, stage.probe.pins())?.action == Action::Kept,
        "not kept the second time"
    );
    drop(held);
    drop(wire::pair(&listener, to)?);
    stage.expect(
        Direction::Initiator,
        Origin::Traffic,
        &[
            (Counter::Attempts, 2),
            (Counter::Established, 2),
            (Counter::Closed, 2),
        ],
    )?;
    ensure!(loader::unload(stage.probe.pins())?, "nothing to unload");
    ensure!(
        !loader::unload(stage.probe.pins())? && !stage.probe.pins().exists(),
        "something is left"
    );
    stage.nothing_lost()
}

/// Each missing precondition is named, and nothing is left behind.
pub(super) fn refusals(place: &Place) -> Result<()> {
    let inside = Inside::enter(place, "refuse")?;
    let pins = leftovers::pins();
    let good = Options::new(inside.cgroup.path());
    for (present, missing) in [
        (Capability::CAP_BPF, Capability::CAP_NET_ADMIN),
        (Capability::CAP_NET_ADMIN, Capability::CAP_BPF),
    ] {
        match with_capabilities(&[present], || loader::load(&good, &pins))? {
            Err(LoadError::Preflight(PreflightError::Capability { missing: named }))
                if named == [missing] => {}
            other => bail!("without {missing}: {other:?}"),
        }
    }
    let plain = std::env::temp_dir();
    let elsewhere = Options {
        cgroup: plain.clone(),
        ..good.clone()
    };
    match loader::load(&elsewhere, &pins) {
        Err(LoadError::Preflight(PreflightError::NotCgroup2 { .. })) => {}
        other => bail!("no cgroup: {other:?}"),
    }
    match loader::load(&good, &plain.join("aggrik8s-no-bpffs")) {
        Err(LoadError::Preflight(PreflightError::NoBpffs { .. })) => {}
        other => bail!("no bpffs: {other:?}"),
    }
    let nothing = Options {
        object: vec![0; 64].into(),
        ..good.clone()
    };
    match loader::load(&nothing, &pins) {
        Err(LoadError::Object(_)) => {}
        other => bail!("no object: {other:?}"),
    }
    // Whichever of our hooks is taken, and however late in the order: everything is taken back.
    for hook in [Hook::SockOps, Hook::SkbEgress] {
        let taken = Inside::enter(place, "taken")?;
        Foreign::exclusive(hook, taken.cgroup.path())?;
        let there = Options {
            cgroup: taken.cgroup.path().to_owned(),
            ..good.clone()
        };
        match loader::load(&there, &pins) {
            Err(LoadError::Exclusive { .. }) => {}
            other => bail!("{hook:?} is taken: {other:?}"),
        }
    }
    ensure!(!pins.exists(), "`{}` was left", pins.display());
    // What an interrupted load leaves has no META, and is cleared by the next.
    std::fs::create_dir_all(&pins)?;
    ensure!(
        loader::load(&good, &pins)?.action == Action::Loaded,
        "an empty folder is no set"
    );
    std::fs::remove_file(pins.join("META"))?;
    ensure!(
        loader::load(&good, &pins)?.action == Action::Loaded,
        "a set without META is none"
    );
    loader::unload(&pins)?;
    Ok(())
}

/// `load --check` and `hold --check` see their own connection and leave nothing.
pub(super) fn self_check(place: &Place) -> Result<()> {
    check_with(place, Some(&leftovers::pins()))?;
    check_with(place, None)
}

fn check_with(place: &Place, pins: Option<&Path>) -> Result<()> {
    let inside = Inside::enter(place, "check")?;
    let options = Options::new(inside.cgroup.path());
    let report = selfcheck::run(&options, pins)?;
    let attached = report
        .programs
        .iter()
        .filter(|program| program.refused.is_none())
        .count();
    ensure!(
        attached == report.programs.len(),
        "not all attached: {:?}",
        report.programs
    );
    let beside = pins.and_then(Path::parent).unwrap_or(Path::new("/"));
    let left = format!("aggrik8s-check-{}", std::process::id());
    ensure!(
        !beside.join(&left).exists() && !inside.cgroup.path().join(&left).exists(),
        "the check left something behind"
    );
    Ok(())
}

/// Programs that are held and not pinned: counted by maps that were handed over, to be used without a capability, and
/// gone with what holds them.
pub(super) fn held(place: &Place) -> Result<()> {
    let inside = Inside::enter(place, "held")?;
    let options = Options::new(inside.cgroup.path());
    let cgroup = File::open(inside.cgroup.path())?;
    let needed = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];
    let held = with_capabilities(&needed, || loader::hold(&options))??;
    ensure!(held.report.action == Action::Held, "{:?}", held.report);
    ensure!(sys::attached_everywhere(&cgroup)? == 5, "not all attached");
    let listener = wire::listen4()?;
    let to = listener.local_addr()?;
    drop(wire::pair(&listener, to)?);
    with_capabilities(&[], || -> Result<()> {
        let mut maps = held.maps()?;
        eventually(|| {
            for direction in [Direction::Initiator, Direction::Acceptor] {
                let series = maps.series()?;
                let of = series
                    .iter()
                    .filter(|(key, _)| key.direction() == direction);
                let closed: u64 = of.map(|(_, data)| data.counter(Counter::Closed)).sum();
                ensure!(closed == 1, "{direction:?}: {closed} closed");
            }
            Ok(())
        })?;
        let prefix = "198.51.100.0/24".parse()?;
        let changed = maps.set_prefixes(&[(prefix, RemoteId(RemoteId::FIRST_NAMED))])?;
        ensure!(changed.written == 1, "{changed:?}");
        maps.set_egress_rests(true)?;
        maps.events()?;
        drop(held);
        Ok(())
    })??;
    // At once, although nobody had a capability.
    ensure!(sys::attached_everywhere(&cgroup)? == 0, "still attached");
    Ok(())
}
