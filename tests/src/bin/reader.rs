//! Reads everything the kernel programs pinned, as an agent does, until it is killed: `reader PINS`.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use probe_user::sys::maps::Maps;

fn main() -> Result<()> {
    let pins = std::env::args_os().nth(1).context("usage: reader PINS")?;
    let maps = Maps::open(Path::new(&pins))?;
    let mut events = maps.events()?;
    let mut said = false;
    loop {
        while events.try_next().is_some() {}
        let series = maps.series()?.len();
        if !said {
            let mut output = std::io::stdout();
            writeln!(output, "{series}")?;
            output.flush()?;
            said = true;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
