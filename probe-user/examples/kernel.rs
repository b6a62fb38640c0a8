//! Drives the kernel side by hand: `kernel load CGROUP PIN_DIR`, `kernel show PIN_DIR`, `kernel unload PIN_DIR`.
#![allow(clippy::print_stdout, reason = "an example is for people")]

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use probe_common::{Counter, HistogramKind};
use probe_user::sys::{
    loader::{self, Options},
    maps::Maps,
};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["load", cgroup, pins] => {
            let mut options = Options::new(*cgroup);
            if let Some(path) = std::env::var_os("PROBE_OBJECT") {
                options.object = std::fs::read(path)?.into();
            }
            let report = loader::load(&options, Path::new(pins)).map_err(|error| {
                let hint = error.hint().unwrap_or_default().into_owned();
                anyhow::Error::new(error).context(hint)
            })?;
            println!("{report:#?}\n{}", report.memory.formula());
        }
        ["show", pins] => show(Path::new(pins))?,
        ["unload", pins] => println!("{}", loader::unload(Path::new(pins))?),
        _ => bail!("usage: kernel load CGROUP PIN_DIR | show PIN_DIR | unload PIN_DIR"),
    }
    Ok(())
}

fn show(pins: &Path) -> Result<()> {
    let maps = Maps::open(pins).context("cannot open the maps")?;
    for (counter, value) in maps.counters()? {
        println!("{} {value}", counter.name());
    }
    for (key, data) in maps.series()? {
        println!(
            "{:?} {:?} {:?} {:?}",
            key.remote(),
            key.direction(),
            key.class(),
            key.origin()
        );
        for counter in Counter::ALL {
            if data.counter(*counter) > 0 {
                println!("    {} {}", counter.name(), data.counter(*counter));
            }
        }
        for kind in HistogramKind::ALL {
            let histogram = data.histogram(kind);
            if histogram.count() > 0 {
                let mean = histogram.sum_ns / histogram.count() / 1000;
                println!("    {} n {} mean {mean} µs", kind.name(), histogram.count());
            }
        }
    }
    let mut events = maps.events()?;
    while let Some(event) = events.try_next() {
        println!("{event:?}");
    }
    Ok(())
}
