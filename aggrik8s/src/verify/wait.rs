//! `--wait`: run after run until the mesh is READY or the time is up.

use std::io::Write;
use std::time::Duration;

use verify::Report;

use super::{VerifyError, signals};

/// How long `--wait` goes on unless asked otherwise.
pub(super) const TIMEOUT: Duration = Duration::from_secs(600);
/// Between two runs.
const PAUSE: Duration = Duration::from_secs(5);

/// Whether there is time for another run of `window` within `left`; if so, after a pause that a signal ends for good.
pub(super) fn again(
    last: Option<&Report>,
    left: Duration,
    window: Duration,
    quiet: bool,
) -> Result<bool, VerifyError> {
    let enough = left >= PAUSE.saturating_add(window);
    if !quiet {
        let _ = writeln!(std::io::stderr(), "{}", line(last, left, enough));
    }
    if !enough {
        return Ok(false);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(VerifyError::Runtime)?;
    runtime
        .block_on(async {
            let mut signals = signals::Signals::new()?;
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => std::io::Result::Ok(true),
                _ = signals.next() => Ok(false),
            }
        })
        .map_err(VerifyError::Runtime)
}

fn line(last: Option<&Report>, left: Duration, enough: bool) -> String {
    let result = last.map_or("no verdict", |report| report.result.words());
    let cause = last
        .and_then(|report| report.causes.first())
        .map_or_else(String::new, |cause| format!(" ({})", cause.id));
    let next = if enough {
        format!("again in {} s", PAUSE.as_secs())
    } else {
        "too little for another run".to_owned()
    };
    format!(
        "waiting for READY: {result}{cause}; {} s left, {next}",
        left.as_secs()
    )
}
