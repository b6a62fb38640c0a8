//! `aggrik8s explain CHECK_ID`: the check table, offline.

use std::process::ExitCode;

use clap::Args;
use verify::checks::{self, CHECKS, CheckSpec};

use crate::cli::{Global, say};
use crate::exit;
use crate::render::wrap;

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// A check id such as `reach.pod_tcp`, or a glob; without one the list of all
    id: Option<String>,
}

pub(crate) fn run(args: &ExplainArgs, _global: &Global) -> ExitCode {
    let Some(glob) = &args.id else {
        let width = CHECKS.iter().map(|spec| spec.id.len()).max().unwrap_or(0);
        let lines: String = CHECKS
            .iter()
            .map(|spec| {
                format!(
                    "{:width$}  {:4}  {}\n",
                    spec.id,
                    checks::severity_word(spec.severity),
                    spec.claim
                )
            })
            .collect();
        return say(&lines);
    };
    let found: Vec<&CheckSpec> = CHECKS
        .iter()
        .filter(|spec| checks::glob_matches(glob, spec.id))
        .collect();
    if found.is_empty() {
        let error = verify::JudgeError::UnknownCheck(probe_api::reply::printable(glob, 80));
        crate::cli::complain(&error, Some("`aggrik8s explain` lists all checks"));
        return ExitCode::from(exit::USAGE);
    }
    let pages: Vec<String> = found.into_iter().map(page).collect();
    say(&pages.join("\n"))
}

fn page(spec: &CheckSpec) -> String {
    format!(
        "{} ({})\n{}\n{}\n{}",
        spec.id,
        checks::severity_word(spec.severity),
        wrap(&format!("holds when {}", spec.claim), "  ", 96),
        wrap(&format!("witness: {}", spec.witness), "  ", 96),
        wrap(spec.text, "  ", 96),
    )
}
