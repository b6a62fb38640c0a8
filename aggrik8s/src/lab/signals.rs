//! Ctrl-C and SIGTERM while a lab is being built: asks the builder to stop and clean up.

use std::io;

use lab::Cancel;
use tokio::signal::unix::{SignalKind, signal};

/// Numbers of SIGINT and SIGTERM, the same on every Linux.
const INTERRUPT: i32 = 2;
const TERMINATE: i32 = 15;

pub(super) fn cancel_on_signal() -> io::Result<Cancel> {
    let cancel = Cancel::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    let asked = cancel.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => asked.signal(INTERRUPT),
                        _ = terminate.recv() => asked.signal(TERMINATE),
                    }
                }
            })
        })?;
    Ok(cancel)
}
