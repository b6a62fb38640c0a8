//! `aggrik8s explain ID`: the tables of checks and causes, offline.

use std::process::ExitCode;

use clap::Args;
use verify::causes::table::{CAUSES, CauseSpec};
use verify::checks::{self, CHECKS, CheckSpec};

use crate::cli::{Global, say};
use crate::exit;
use crate::render::wrap;

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// A check such as `reach.pod_tcp`, a cause such as `path.loss`, or a glob; without one the list of all
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
        let width = CAUSES.iter().map(|spec| spec.id.len()).max().unwrap_or(0);
        let causes: String = CAUSES
            .iter()
            .map(|spec| format!("{:width$}  {}\n", spec.id, spec.claim))
            .collect();
        return say(&format!("checks\n{lines}\ncauses\n{causes}"));
    };
    let matches = |id: &str| checks::glob_matches(glob, id);
    let checks = CHECKS.iter().filter(|spec| matches(spec.id)).map(page);
    let causes = CAUSES
        .iter()
        .filter(|spec| matches(spec.id))
        .map(cause_page);
    let pages: Vec<String> = checks.chain(causes).collect();
    if pages.is_empty() {
        let error = verify::JudgeError::UnknownCheck(probe_api::reply::printable(glob, 80));
        crate::cli::complain(
            &error,
            Some("`aggrik8s explain` lists all checks and causes"),
        );
        return ExitCode::from(exit::USAGE);
    }
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

fn cause_page(spec: &CauseSpec) -> String {
    format!(
        "{} (cause)\n{}\n{}\n{}",
        spec.id,
        wrap(spec.claim, "  ", 96),
        wrap(&format!("named when: {}", spec.signature), "  ", 96),
        wrap(&format!("next look: {}", spec.next), "  ", 96),
    )
}
