//! `aggrik8s image push`: takes the image that `dist` wrote to a registry, with its bills of materials, and prints
//! the name by which exactly this image is installed.

mod credentials;
mod layout;
mod push;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use install::ImageRef;

use crate::cli::{complain, say};
use crate::exit;
use layout::{Layout, LayoutError};
use push::PushError;

/// The agents' image.
#[derive(Debug, Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Push the image of all architectures to a registry; prints its name with the digest
    Push(PushArgs),
}

#[derive(Debug, Args)]
struct PushArgs {
    /// Where to: `repository[:tag]`; the tag is this program's version unless given
    #[arg(value_name = "REF")]
    to: ImageRef,
    /// The archive [default: aggrik8s-image.tar beside this program]
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,
    /// Speak HTTP without TLS: for a registry on this machine
    #[arg(long)]
    plain_http: bool,
    /// More CA certificates to trust, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum ImageError {
    #[error("cannot tell where this program lies")]
    Beside(#[source] std::io::Error),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Push(#[from] PushError),
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error("a digest cannot be pushed to")]
    Digest,
}

impl ImageError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Layout(error) => Some(error.hint()),
            Self::Push(error) => error.hint(),
            Self::Digest => Some("give `repository[:tag]`; the digest follows from the image"),
            Self::Beside(_) => Some("give --archive FILE"),
            Self::Runtime(_) => None,
        }
    }
}

pub fn run(args: &ImageArgs) -> ExitCode {
    let Command::Push(args) = &args.command;
    match push(args) {
        Ok(name) => {
            say(&format!("{name}\n"));
            ExitCode::from(exit::HOLDS)
        }
        Err(error) => complain(&error, error.hint()),
    }
}

fn push(args: &PushArgs) -> Result<String, ImageError> {
    if args.to.digest.is_some() {
        return Err(ImageError::Digest);
    }
    let archive = match &args.archive {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .map_err(ImageError::Beside)?
            .with_file_name("aggrik8s-image.tar"),
    };
    let layout = Layout::read(&archive)?;
    let target = push::Target {
        repository: args.to.repository.clone(),
        tag: args
            .to
            .tag
            .clone()
            .unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
        plain_http: args.plain_http,
        ca: args.ca.clone(),
    };
    // The registry's client brings no provider of its own. An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ImageError::Runtime)?;
    Ok(runtime.block_on(push::push(layout, &target))?)
}
