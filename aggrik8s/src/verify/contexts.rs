//! `verify --contexts`: read the API servers, judge, render. Nothing is installed and nothing is changed.

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use clusters::Contexts;
use verify::{ClustersPolicy, Report, judge_clusters};

use super::signals::Signals;
use super::{Output, VerifyArgs, VerifyError, occasion};
use crate::cli::{Global, say};
use crate::render::{self, style::Style};

/// Longest a run may take unless `--timeout` says otherwise. Usually it is over within a second.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn verdict(args: &VerifyArgs, global: &Global) -> Result<u8, VerifyError> {
    let (started, now) = (Instant::now(), SystemTime::now());
    let policy = ClustersPolicy {
        only: args.only.clone(),
    };
    policy.check()?;
    let contexts = Contexts::read(args.kubeconfig.as_deref()).map_err(VerifyError::Contexts)?;
    contexts
        .check(&args.contexts)
        .map_err(VerifyError::Contexts)?;
    if !global.quiet {
        let _ = writeln!(
            std::io::stderr(),
            "budget: reads of {} API servers and a status command in each Cilium agent; nothing is changed",
            args.contexts.len()
        );
    }
    let limit = args.timeout.unwrap_or(TIMEOUT);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(VerifyError::Runtime)?;
    let views = runtime.block_on(async {
        let mut signals = Signals::new()?;
        tokio::select! {
            looks = clusters::looks(&contexts, &args.contexts, clusters::NAMESPACE, limit) => std::io::Result::Ok(Ok(looks)),
            code = signals.next() => Ok(Err(code)),
        }
    });
    // A credentials plugin that hangs keeps its thread: nobody waits for it.
    runtime.shutdown_background();
    let views = match views.map_err(VerifyError::Runtime)? {
        Ok(looks) => looks,
        Err(code) => {
            let _ = writeln!(
                std::io::stderr(),
                "stopped by a signal before anything was decided"
            );
            return Ok(code);
        }
    };
    let views: Vec<_> = views.into_iter().map(|look| look.view).collect();
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    });
    let verdict = judge_clusters(&views, &policy, seconds)?;
    let started_at = humantime::format_rfc3339_millis(now).to_string();
    let report = Report::new(
        verdict,
        occasion(args.contexts.join(","), started_at, started),
    );
    let style = Style::for_stream(global.color, global.ascii, &std::io::stdout());
    say(&match args.output {
        Output::Table => render::table(&report, style),
        Output::Json => render::json(&report),
        Output::Short => render::short(&report, style),
        Output::Junit => render::junit(&report),
    });
    Ok(report.exit_code)
}
