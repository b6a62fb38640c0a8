//! The lab's line as a process of its own: `line --tun NAME --config FILE --control SOCKET`.

use anyhow::Result;

fn main() -> Result<()> {
    match lab::line::run(&lab::line::Options::from_args(std::env::args().skip(1))?)? {}
}
