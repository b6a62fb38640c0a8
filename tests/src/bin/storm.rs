//! One process of a connection storm: `storm [CGROUP]`, plan on standard input (see `tests::storm`).

use std::io::BufRead;
use std::path::Path;

use anyhow::{Context, Result};
use tests::storm::{Plan, connect, serve};

fn main() -> Result<()> {
    if let Some(cgroup) = std::env::args_os().nth(1) {
        tests::cgroup::join(Path::new(&cgroup), std::process::id())?;
    }
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout());
    let mut line = String::new();
    input.read_line(&mut line)?;
    match serde_json::from_str(&line).context("read the plan")? {
        Plan::Serve(plan) => serve(&plan, &mut input, &mut output),
        Plan::Connect(plan) => connect(&plan, &mut input, &mut output),
    }
}
