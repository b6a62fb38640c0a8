//! The two ways to a full set of maps and programs: from nothing, and onto pinned maps that are already there.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, Map, MapData, MapError, Queue},
};
use probe_common::{
    AttachState, Config, LAYOUT, Meta,
    maps::{PROGRAMS, names},
    series::OVERFLOW_SLOTS,
};

use super::{LoadError, Options, foreign, install, pins};
use crate::sys::{maps::Maps, memory::Memory, raw, source};

/// Index of the program that may rest.
const EGRESS: usize = 4;
const _: () = assert!(PROGRAMS[EGRESS].len() == "egress".len());

/// Loads into an empty folder. On an error everything made here is removed again.
pub(super) fn fresh(
    options: &Options,
    memory: &Memory,
    object: [u8; 32],
    pin_dir: &Path,
) -> Result<(), LoadError> {
    pins::make_dir(pin_dir)?;
    let built = build(options, memory, object, Some(pin_dir));
    built.map(drop).inspect_err(|_| {
        if let Err(error) = pins::remove(pin_dir) {
            tracing::warn!(%error, "cannot clear the pin folder after a failed load");
        }
    })
}

/// Makes the maps and attaches the programs; both are pinned, or end with what is returned.
pub(super) fn build(
    options: &Options,
    memory: &Memory,
    object: [u8; 32],
    pins: Option<&Path>,
) -> Result<(Ebpf, Vec<OwnedFd>), LoadError> {
    let mut ebpf = parse(options, memory, pins)?;
    for (dir, map) in pins
        .into_iter()
        .flat_map(|dir| pins::MAPS.map(|map| (dir, map)))
    {
        pins::open_to_group(&dir.join(map))?;
    }
    let mut config = Config {
        probe_port_first: *options.probe_ports.start(),
        probe_port_last: *options.probe_ports.end(),
        burst_port_first: options.burst_port_first,
        egress_rests: 0,
        shards: memory.shards,
        outlier_connect_ns: options.outlier_connect_ns,
        events_per_second: options.events_per_second,
    };
    set(&mut ebpf, names::CONFIG, &[config])?;
    fill_free_slots(&mut ebpf, memory.series_cap)?;
    install::verify(&mut ebpf)?;
    let (states, links) = install::attach_all(&mut ebpf, options, pins)?;
    if states[EGRESS].attached == 0 {
        config.egress_rests = 1;
        set(&mut ebpf, names::CONFIG, &[config])?;
    }
    finish(&mut ebpf, options, memory, object, &states)?;
    if let Some(dir) = pins {
        // Last: it says that the folder is whole.
        let path = dir.join(names::META);
        raw::pin(map(&ebpf, names::META)?.fd(), &path).map_err(|source| LoadError::Pin {
            path: path.clone(),
            source,
        })?;
        pins::open_to_group(&path)?;
    }
    Ok((ebpf, links))
}

/// The maps that an agent needs, to be kept when the object is dropped.
pub(super) fn descriptors(ebpf: &Ebpf) -> Result<BTreeMap<&'static str, OwnedFd>, LoadError> {
    let descriptor = |name| {
        let copy = map(ebpf, name)?.fd().as_fd().try_clone_to_owned();
        let copy = copy.map_err(|error| LoadError::Setup {
            map: name,
            source: Box::new(MapError::from(error)),
        })?;
        Ok((name, copy))
    };
    source::NEEDED.into_iter().map(descriptor).collect()
}

/// Puts another object's programs in place of those that run, on the maps that are there.
pub(super) fn replace(
    options: &Options,
    maps: &mut Maps,
    object: [u8; 32],
    pin_dir: &Path,
) -> Result<(), LoadError> {
    let memory = Memory {
        series_cap: maps.meta().series_cap,
        shards: maps.meta().shards,
        states: maps.meta().states,
        ring_bytes: options.ring_bytes,
    };
    let mut ebpf = parse(options, &memory, Some(pin_dir))?;
    install::verify(&mut ebpf)?;
    let (states, _pinned) = install::attach_all(&mut ebpf, options, Some(pin_dir))?;
    write_states(&mut ebpf, &states)?;
    maps.set_egress_rests(states[EGRESS].attached == 0)
        .map_err(|source| foreign(pin_dir, source))?;
    maps.replace_meta(Meta {
        object,
        ..*maps.meta()
    })
    .map_err(|source| foreign(pin_dir, source))
}

fn parse(options: &Options, memory: &Memory, pins: Option<&Path>) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    // Never the kernel's BTF: the object needs none, and a kernel may have none.
    loader
        .btf(None)
        .map_max_entries(names::SERIES, memory.series_cap)
        .map_max_entries(names::FREE_SLOTS, memory.series_cap)
        .map_max_entries(
            names::SLOTS,
            (memory.series_cap + OVERFLOW_SLOTS) * memory.shards,
        )
        .map_max_entries(names::TABLE, memory.states)
        .map_max_entries(names::EVENTS, memory.ring_bytes);
    for (dir, map) in pins
        .into_iter()
        .flat_map(|dir| pins::MAPS.map(|map| (dir, map)))
    {
        loader.map_pin_path(map, dir.join(map));
    }
    loader
        .load(&options.object)
        .map_err(|error| LoadError::Object(Box::new(error)))
}

fn map<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a MapData, LoadError> {
    match ebpf.map(name) {
        Some(Map::Array(data) | Map::HashMap(data) | Map::LpmTrie(data) | Map::RingBuf(data)) => {
            Ok(data)
        }
        _ => Err(LoadError::Missing { what: "map", name }),
    }
}

fn set<V: Pod>(ebpf: &mut Ebpf, name: &'static str, values: &[V]) -> Result<(), LoadError> {
    let failed = |source| LoadError::Setup {
        map: name,
        source: Box::new(source),
    };
    let missing = LoadError::Missing { what: "map", name };
    let map = ebpf.map_mut(name).ok_or(missing)?;
    let mut array = Array::<_, V>::try_from(map).map_err(failed)?;
    for (index, value) in (0u32..).zip(values) {
        array.set(index, *value, 0).map_err(failed)?;
    }
    Ok(())
}

fn fill_free_slots(ebpf: &mut Ebpf, cap: u32) -> Result<(), LoadError> {
    let name = names::FREE_SLOTS;
    let failed = |source| LoadError::Setup {
        map: name,
        source: Box::new(source),
    };
    let map = ebpf
        .map_mut(name)
        .ok_or(LoadError::Missing { what: "map", name })?;
    let mut queue = Queue::<_, u32>::try_from(map).map_err(failed)?;
    for slot in OVERFLOW_SLOTS..OVERFLOW_SLOTS + cap {
        queue.push(slot, 0).map_err(failed)?;
    }
    Ok(())
}

fn write_states(ebpf: &mut Ebpf, states: &[AttachState; PROGRAMS.len()]) -> Result<(), LoadError> {
    set(ebpf, names::ATTACH, states)
}

fn finish(
    ebpf: &mut Ebpf,
    options: &Options,
    memory: &Memory,
    object: [u8; 32],
    states: &[AttachState; PROGRAMS.len()],
) -> Result<(), LoadError> {
    write_states(ebpf, states)?;
    tracing::debug!(cgroup = %options.cgroup.display(), "attached");
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(std::time::Duration::from)
        .unwrap_or_default();
    set(
        ebpf,
        names::META,
        &[Meta {
            layout: LAYOUT,
            shards: memory.shards,
            series_cap: memory.series_cap,
            states: memory.states,
            loaded_at_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            object,
        }],
    )
}
